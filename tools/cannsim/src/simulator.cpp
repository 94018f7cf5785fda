// Settings, trace, errors and counters; see simulator.h.
#include "simulator.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>

namespace cannsim {

Statistics statistics;
std::atomic<WaitHook> wait_hook{nullptr};

static thread_local char last_error[1024] = "";

int setting(const char *name, int otherwise) {
    const char *value = getenv(name);
    return value && *value ? atoi(value) : otherwise;
}

void trace(const char *name) {
    static const int level = setting("CANNSIM_TRACE", 0);
    if (level > 0) fprintf(stderr, "[cannsim] %s\n", name);
}

void set_error(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(last_error, sizeof last_error, format, arguments);
    va_end(arguments);
}

// Operators that computed in float64, with how often. Never destroyed: operators may still run while the process ends.
static std::mutex &float64_mutex = *new std::mutex;
static std::map<std::string, uint64_t> &float64_operators = *new std::map<std::string, uint64_t>;

static void report_float64() {
    std::lock_guard<std::mutex> lock(float64_mutex);
    if (float64_operators.empty()) return;
    fprintf(stderr, "[cannsim] float64 computed on the device (slow or missing on an NPU):");
    for (const auto &entry : float64_operators)
        fprintf(stderr, " %s x%llu", entry.first.c_str(), (unsigned long long)entry.second);
    fputc('\n', stderr);
}

void note_float64(const char *name) {
    statistics.float64_operators++;
    std::lock_guard<std::mutex> lock(float64_mutex);
    if (float64_operators.empty()) atexit(report_float64);
    float64_operators[name]++;
}

void note_fallback(const char *name) {
    statistics.cpu_fallbacks++;
    if (auto hook = wait_hook.load()) hook((std::string("fallback ") + name).c_str(), 0);
}

}  // namespace cannsim

extern "C" {

const char *aclGetRecentErrMsg() { return cannsim::last_error[0] ? cannsim::last_error : nullptr; }

// For pivotnet.audit and the tests (ctypes).
const cannsim::Statistics *cannsim_statistics() { return &cannsim::statistics; }
void cannsim_set_wait_hook(cannsim::WaitHook hook) { cannsim::wait_hook = hook; }

}
