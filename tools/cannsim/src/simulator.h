// What the parts of the simulator share: settings, the trace, the last error, counters and the map of device memory.
//
// "Device memory" is host memory that came from aclrtMalloc; a registry remembers which device it belongs to, so that
// mixed-up pointers are found as they would be on real hardware. Every stream runs synchronously.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace cannsim {

// Integer value of an environment variable, or the given default.
int setting(const char *name, int otherwise);

// Prints one line to stderr when CANNSIM_TRACE is 1 or more.
void trace(const char *name);

// Keeps the message that aclGetRecentErrMsg returns on this thread; torch_npu appends it to its exceptions.
void set_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Where an address lies.
constexpr int HOST = -1;
int device_of(const void *address);  // device number, or HOST when aclrtMalloc did not give it

// The calling thread's device; HOST before the first aclrtSetDevice.
int current_device();

// Counts since the process began. The layout is read through ctypes by counters.py: append only.
struct Statistics {
    std::atomic<uint64_t> calls;               // of aclnn and aclop operators
    std::atomic<uint64_t> to_device_copies;
    std::atomic<uint64_t> to_device_bytes;
    std::atomic<uint64_t> to_host_copies;
    std::atomic<uint64_t> to_host_bytes;
    std::atomic<uint64_t> stream_waits;        // the host waited for a stream
    std::atomic<uint64_t> device_waits;        // ... for a whole device
    std::atomic<uint64_t> event_waits;         // ... for an event
    std::atomic<uint64_t> collectives;         // HCCL calls
    std::atomic<uint64_t> float64_operators;   // operators that computed in float64
    std::atomic<uint64_t> cpu_fallbacks;       // operators that torch_npu handed to the CPU
    std::atomic<uint64_t> strided;             // operands of calls that CANN has to copy, since their strides have gaps
};
extern Statistics statistics;

// Counts an operator that computed in float64; it is named on stderr when the process ends.
void note_float64(const char *name);

// Counts an operator that torch_npu handed to the CPU.
void note_fallback(const char *name);

// Called whenever the host waits for a device ("stream", "device", "event"), copies ("to_host", "to_device"), or computes
// for the device ("fallback aten::name").
using WaitHook = void (*)(const char *kind, uint64_t bytes);
extern std::atomic<WaitHook> wait_hook;

// Graphs (graphs.cpp): while one is captured, work is kept instead of done; a replay does it.
bool capturing();
void keep(std::function<int()> work);         // 0: success
int refuse_while_capturing(const char *what);  // for what CANN cannot capture: 0, or an error that names it

}  // namespace cannsim
