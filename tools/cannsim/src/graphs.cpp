// Captured graphs (aclmdlRI...): a list of the work that was given to the device between the capture's begin and end.
//
// Nothing is executed during a capture, as on hardware: memory keeps what it held. There is one stream as far as a capture
// is concerned, and one capture at a time in a process.
#include <memory>
#include <mutex>
#include <vector>

#include "simulator.h"

namespace {
// The types and numbers of acl/acl_mdl.h, which older wheels lack.
using aclError = int;
using Stream = void *;
enum { SUCCESS = 0, STREAM_CAPTURED = 107027 };
enum { CAPTURE_NONE = 0, CAPTURE_ACTIVE = 1 };

struct Graph {
    std::vector<std::function<int()>> work;
};
std::mutex &graph_mutex = *new std::mutex;
std::atomic<Graph *> current{nullptr};
}  // namespace

bool cannsim::capturing() { return current != nullptr; }

void cannsim::keep(std::function<int()> work) {
    std::lock_guard<std::mutex> lock(graph_mutex);
    if (Graph *graph = current) graph->work.push_back(std::move(work));
}

int cannsim::refuse_while_capturing(const char *what) {
    if (!capturing()) return SUCCESS;
    set_error("%s cannot be captured in a graph", what);
    return STREAM_CAPTURED;
}

extern "C" {

aclError aclmdlRICaptureBegin(Stream, int) {
    if (cannsim::capturing()) return STREAM_CAPTURED;
    current = new Graph;
    return SUCCESS;
}

aclError aclmdlRICaptureGetInfo(Stream, int *status, void **graph) {
    *status = cannsim::capturing() ? CAPTURE_ACTIVE : CAPTURE_NONE;
    if (graph) *graph = current.load();
    return SUCCESS;
}

aclError aclmdlRICaptureEnd(Stream, void **graph) {
    *graph = current.exchange(nullptr);
    return SUCCESS;
}

// A replay is one launch, however much work it is.
aclError aclmdlRIExecuteAsync(void *graph, Stream) {
    cannsim::trace("graph");
    cannsim::statistics.calls++;
    for (const auto &work : ((Graph *)graph)->work)
        if (int error = work()) return error;
    return SUCCESS;
}

aclError aclmdlRIDestroy(void *graph) {
    delete (Graph *)graph;
    return SUCCESS;
}

// What torch_npu sets for a stream that captures means nothing here.
aclError aclrtSetStreamAttribute(Stream, int, void *) { return SUCCESS; }

}  // extern "C"
