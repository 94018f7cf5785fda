// The Ascend runtime (libascendcl): devices, memory, streams and events, on host memory and synchronously.
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "acl/acl.h"
#include "simulator.h"

using cannsim::HOST;
using cannsim::set_error;
using cannsim::setting;
using cannsim::statistics;
using cannsim::trace;

// The CANN release that torch_npu 2.8.0.post2 is built for.
static const char *const CANN_VERSION = "8.5.0";
static const int MAX_DEVICES = 64;
// An Atlas A2 chip.
static const int AI_CORES = 24;
static const int VECTOR_CORES = 48;
static const int64_t L2_BYTES = 192 << 20;

static int device_count() {
    static const int count = setting("CANNSIM_DEVICES", 8);
    return count < MAX_DEVICES ? count : MAX_DEVICES;
}

static size_t device_bytes() {
    static const size_t bytes = (size_t)setting("CANNSIM_HBM_MB", 65536) << 20;
    return bytes;
}

static thread_local int32_t thread_device = HOST;

// ---- the registry of device memory ----
struct Block {
    size_t bytes;
    int device;
};
using Blocks = std::map<uintptr_t, Block>;
static std::mutex &memory_mutex = *new std::mutex;
static Blocks &blocks = *new Blocks;         // device memory
static Blocks &locked_blocks = *new Blocks;  // page-locked host memory (aclrtMallocHost)
static size_t used_bytes[MAX_DEVICES];

int cannsim::current_device() { return thread_device; }

// The block of `among` that an address lies in, or nullptr.
static const Block *block_of(const Blocks &among, const void *address) {
    auto next = among.upper_bound((uintptr_t)address);
    if (next == among.begin()) return nullptr;
    const auto &block = *--next;
    return (uintptr_t)address < block.first + block.second.bytes ? &block.second : nullptr;
}

int cannsim::device_of(const void *address) {
    std::lock_guard<std::mutex> lock(memory_mutex);
    const Block *block = block_of(blocks, address);
    return block ? block->device : HOST;
}

static aclError wait_for(std::atomic<uint64_t> &counter, const char *kind) {
    if (int error = cannsim::refuse_while_capturing("a wait of the host")) return error;
    counter++;
    if (auto hook = cannsim::wait_hook.load()) hook(kind, 0);
    return ACL_SUCCESS;
}

static double now_ms() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e3 + now.tv_nsec * 1e-6;
}

// dsmi is the driver's management interface; mx_driving asks it for the chip (0: success).
struct DsmiChip {
    char type[32], name[32], version[32];
};
extern "C" int dsmi_get_chip_info(int, DsmiChip *chip) {
    *chip = {"Ascend", "910B1", "V1"};
    return 0;
}

extern "C" {

// ---- start, versions, capabilities ----
aclError aclInit(const char *) { return ACL_SUCCESS; }
aclError aclFinalize() { return ACL_SUCCESS; }

const char *aclrtGetSocName() { return "Ascend910B1"; }

aclError aclsysGetCANNVersion(aclCANNPackageName, aclCANNPackageVersion *version) {
    memset(version, 0, sizeof *version);
    strcpy(version->version, CANN_VERSION);
    strcpy(version->majorVersion, "8");
    strcpy(version->minorVersion, "5");
    strcpy(version->releaseVersion, "0");
    return ACL_SUCCESS;
}

aclError aclsysGetVersionStr(char *, char *version) {
    strcpy(version, CANN_VERSION);
    return ACL_SUCCESS;
}

// torch_npu's own log lines: shown from CANNSIM_TRACE=2 on.
void aclAppLog(aclLogLevel level, const char *function, const char *, uint32_t, const char *format, ...) {
    if (setting("CANNSIM_TRACE", 0) < 2) return;
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "[torch_npu log %d] %s: ", level, function);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
}

aclError aclGetCannAttributeList(const aclCannAttr **list, size_t *count) {
    static const aclCannAttr attributes[] = {ACL_CANN_ATTR_INF_NAN, ACL_CANN_ATTR_BF16, ACL_CANN_ATTR_JIT_COMPILE};
    *list = attributes;
    *count = 3;
    return ACL_SUCCESS;
}

aclError aclGetCannAttribute(aclCannAttr, int32_t *available) {
    *available = 1;
    return ACL_SUCCESS;
}

aclError aclGetDeviceCapability(uint32_t, aclDeviceInfo what, int64_t *value) {
    *value = what == ACL_DEVICE_INFO_AI_CORE_NUM       ? AI_CORES
             : what == ACL_DEVICE_INFO_VECTOR_CORE_NUM ? VECTOR_CORES
                                                       : L2_BYTES;
    return ACL_SUCCESS;
}

// ---- devices ----
aclError aclrtGetDeviceCount(uint32_t *count) {
    *count = device_count();
    return ACL_SUCCESS;
}

aclError aclrtSetDevice(int32_t device) {
    if (device < 0 || device >= device_count()) {
        set_error("device %d does not exist: CANNSIM_DEVICES=%d", device, device_count());
        return ACL_ERROR_RT_INVALID_DEVICEID;
    }
    thread_device = device;
    return ACL_SUCCESS;
}

aclError aclrtGetDevice(int32_t *device) {
    if (thread_device == HOST) return ACL_ERROR_RT_CONTEXT_NULL;
    *device = thread_device;
    return ACL_SUCCESS;
}

aclError aclrtResetDevice(int32_t) {
    thread_device = HOST;
    return ACL_SUCCESS;
}

// A context is its device's number plus one, as a pointer.
aclError aclrtSetCurrentContext(aclrtContext context) {
    thread_device = (int32_t)((intptr_t)context - 1);
    return ACL_SUCCESS;
}

aclError aclrtGetCurrentContext(aclrtContext *context) {
    if (thread_device == HOST) return ACL_ERROR_RT_CONTEXT_NULL;
    *context = (void *)(intptr_t)(thread_device + 1);
    return ACL_SUCCESS;
}

aclError aclrtDeviceCanAccessPeer(int32_t *can, int32_t, int32_t) {
    *can = 1;
    return ACL_SUCCESS;
}
aclError aclrtDeviceEnablePeerAccess(int32_t, uint32_t) { return ACL_SUCCESS; }

aclError aclrtGetMemInfo(aclrtMemAttr, size_t *free_bytes, size_t *total_bytes) {
    std::lock_guard<std::mutex> lock(memory_mutex);
    *total_bytes = device_bytes();
    *free_bytes = device_bytes() - used_bytes[thread_device == HOST ? 0 : thread_device];
    return ACL_SUCCESS;
}

aclError aclrtDeviceGetBareTgid(int32_t *pid) {
    *pid = getpid();
    return ACL_SUCCESS;
}

aclError aclrtGetDeviceUtilizationRate(int32_t, aclrtUtilizationInfo *info) {
    info->cubeUtilization = info->vectorUtilization = info->aicpuUtilization = info->memoryUtilization = 0;
    return ACL_SUCCESS;
}

aclError aclrtSynchronizeDevice() {
    return wait_for(statistics.device_waits, "device");
}
aclError aclrtSynchronizeDeviceWithTimeout(int32_t) { return aclrtSynchronizeDevice(); }

// Settings of the real runtime that mean nothing here.
aclError aclrtCtxSetSysParamOpt(aclSysParamOpt, int64_t) { return ACL_SUCCESS; }
aclError aclrtSetSysParamOpt(aclSysParamOpt, int64_t) { return ACL_SUCCESS; }
aclError aclrtSetDeviceSatMode(aclrtFloatOverflowMode) { return ACL_SUCCESS; }
aclError aclrtSetOpWaitTimeout(uint32_t) { return ACL_SUCCESS; }
aclError aclrtSetOpExecuteTimeOut(uint32_t) { return ACL_SUCCESS; }
aclError aclrtPeekAtLastError(aclrtLastErrLevel) { return ACL_SUCCESS; }
aclError aclrtGetLastError(aclrtLastErrLevel) { return ACL_SUCCESS; }

// ---- device memory ----
static aclError out_of_memory(size_t bytes, int device) {
    set_error("device %d has no %zu bytes left of CANNSIM_HBM_MB=%zu", device, bytes, device_bytes() >> 20);
    return ACL_ERROR_RT_MEMORY_ALLOCATION;
}

aclError aclrtMalloc(void **address, size_t bytes, aclrtMemMallocPolicy) {
    std::lock_guard<std::mutex> lock(memory_mutex);
    const int device = thread_device == HOST ? 0 : thread_device;
    if (used_bytes[device] + bytes > device_bytes()) return out_of_memory(bytes, device);
    if (posix_memalign(address, 512, bytes ? bytes : 512)) return out_of_memory(bytes, device);
    blocks[(uintptr_t)*address] = {bytes, device};
    used_bytes[device] += bytes;
    return ACL_SUCCESS;
}
aclError aclrtMallocAlign32(void **address, size_t bytes, aclrtMemMallocPolicy policy) {
    return aclrtMalloc(address, bytes, policy);
}

aclError aclrtFree(void *address) {
    std::lock_guard<std::mutex> lock(memory_mutex);
    auto block = blocks.find((uintptr_t)address);
    if (block == blocks.end()) return ACL_ERROR_RT_PARAM_INVALID;
    used_bytes[block->second.device] -= block->second.bytes;
    blocks.erase(block);
    free(address);
    return ACL_SUCCESS;
}

// Expandable segments: a range of addresses is reserved once and gets memory piece by piece.
struct PhysicalMemory {
    size_t bytes;
    int device;
};

aclError aclrtReserveMemAddress(void **address, size_t bytes, size_t, void *, uint64_t) {
    *address = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (*address == MAP_FAILED) return ACL_ERROR_RT_MEMORY_ALLOCATION;
    std::lock_guard<std::mutex> lock(memory_mutex);
    blocks[(uintptr_t)*address] = {0, thread_device == HOST ? 0 : thread_device};
    return ACL_SUCCESS;
}

// The size of a reservation is not told back, so its (untouched, never backed) addresses stay reserved.
aclError aclrtReleaseMemAddress(void *) { return ACL_SUCCESS; }

aclError aclrtMallocPhysical(aclrtDrvMemHandle *handle, size_t bytes, const aclrtPhysicalMemProp *property, uint64_t) {
    const int device = property ? (int)property->location.id : thread_device;
    std::lock_guard<std::mutex> lock(memory_mutex);
    if (used_bytes[device] + bytes > device_bytes()) return out_of_memory(bytes, device);
    used_bytes[device] += bytes;
    *handle = (aclrtDrvMemHandle) new PhysicalMemory{bytes, device};
    return ACL_SUCCESS;
}

aclError aclrtFreePhysical(aclrtDrvMemHandle handle) {
    auto *memory = (PhysicalMemory *)handle;
    std::lock_guard<std::mutex> lock(memory_mutex);
    used_bytes[memory->device] -= memory->bytes;
    delete memory;
    return ACL_SUCCESS;
}

aclError aclrtMapMem(void *address, size_t bytes, size_t, aclrtDrvMemHandle handle, uint64_t) {
    if (mprotect(address, bytes, PROT_READ | PROT_WRITE)) return ACL_ERROR_RT_MEMORY_ALLOCATION;
    std::lock_guard<std::mutex> lock(memory_mutex);
    blocks[(uintptr_t)address] = {bytes, ((PhysicalMemory *)handle)->device};
    return ACL_SUCCESS;
}

aclError aclrtUnmapMem(void *address) {
    std::lock_guard<std::mutex> lock(memory_mutex);
    auto block = blocks.find((uintptr_t)address);
    if (block == blocks.end()) return ACL_ERROR_RT_PARAM_INVALID;
    madvise(address, block->second.bytes, MADV_DONTNEED);
    mprotect(address, block->second.bytes, PROT_NONE);
    blocks.erase(block);
    return ACL_SUCCESS;
}

// ---- host memory ----
aclError aclrtMallocHost(void **address, size_t bytes) {
    if (posix_memalign(address, 512, bytes ? bytes : 512)) return ACL_ERROR_RT_MEMORY_ALLOCATION;
    std::lock_guard<std::mutex> lock(memory_mutex);
    locked_blocks[(uintptr_t)*address] = {bytes, HOST};
    return ACL_SUCCESS;
}

aclError aclrtFreeHost(void *address) {
    std::lock_guard<std::mutex> lock(memory_mutex);
    locked_blocks.erase((uintptr_t)address);
    free(address);
    return ACL_SUCCESS;
}

// torch_npu asks before a non-blocking copy, and waits for the stream unless the host memory is page-locked. Declared here
// because the headers of older wheels lack it.
struct PointerAttributes {
    uint32_t device;
    int32_t type;
    uint32_t page_size, reserved[4];
};
enum { TYPE_HOST = 0, TYPE_DEVICE = 1, TYPE_UNREGISTERED = 2 };

aclError pointer_attributes(const void *address, PointerAttributes *attributes) __asm__("aclrtPointerGetAttributes");
aclError pointer_attributes(const void *address, PointerAttributes *attributes) {
    memset(attributes, 0, sizeof *attributes);
    attributes->type = TYPE_UNREGISTERED;
    std::lock_guard<std::mutex> lock(memory_mutex);
    if (const Block *block = block_of(blocks, address)) {
        attributes->type = TYPE_DEVICE;
        attributes->device = block->device;
    } else if (block_of(locked_blocks, address)) {
        attributes->type = TYPE_HOST;
    }
    return ACL_SUCCESS;
}

// ---- copies ----
static aclError copy(void *to, size_t room, const void *from, size_t bytes) {
    if (bytes > room) {
        set_error("a copy of %zu bytes into %zu bytes", bytes, room);
        return ACL_ERROR_RT_PARAM_INVALID;
    }
    const bool from_device = cannsim::device_of(from) != HOST;
    const bool to_device = cannsim::device_of(to) != HOST;
    if (cannsim::capturing() && from_device && to_device) {
        cannsim::keep([=] { return memmove(to, from, bytes), ACL_SUCCESS; });
        return ACL_SUCCESS;
    }
    if (int error = cannsim::refuse_while_capturing("a copy between host and device")) return error;
    if (from_device != to_device) {
        (to_device ? statistics.to_device_copies : statistics.to_host_copies)++;
        (to_device ? statistics.to_device_bytes : statistics.to_host_bytes) += bytes;
        if (auto hook = cannsim::wait_hook.load()) hook(to_device ? "to_device" : "to_host", bytes);
    }
    memmove(to, from, bytes);
    return ACL_SUCCESS;
}

aclError aclrtMemcpy(void *to, size_t room, const void *from, size_t bytes, aclrtMemcpyKind) {
    return copy(to, room, from, bytes);
}
aclError aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t bytes, aclrtMemcpyKind, aclrtStream) {
    return copy(to, room, from, bytes);
}
aclError aclrtMemcpyAsyncWithCondition(void *to, size_t room, const void *from, size_t bytes, aclrtMemcpyKind,
                                       aclrtStream) {
    return copy(to, room, from, bytes);
}

aclError aclrtMemset(void *address, size_t room, int32_t value, size_t bytes) {
    if (bytes > room) return ACL_ERROR_RT_PARAM_INVALID;
    auto fill = [=] { return memset(address, value, bytes), ACL_SUCCESS; };
    if (!cannsim::capturing()) return fill();
    cannsim::keep(fill);
    return ACL_SUCCESS;
}
aclError aclrtMemsetAsync(void *address, size_t room, int32_t value, size_t bytes, aclrtStream) {
    return aclrtMemset(address, room, value, bytes);
}

// ---- streams: numbers ----
struct SimulatedStream {
    int32_t id;
};
static std::atomic<int32_t> next_stream{2};

aclError aclrtCreateStreamWithConfig(aclrtStream *stream, uint32_t, uint32_t) {
    *stream = new SimulatedStream{next_stream++};
    return ACL_SUCCESS;
}
aclError aclrtCreateStream(aclrtStream *stream) { return aclrtCreateStreamWithConfig(stream, 0, 0); }
aclError aclrtDestroyStream(aclrtStream stream) {
    delete (SimulatedStream *)stream;
    return ACL_SUCCESS;
}
aclError aclrtDestroyStreamForce(aclrtStream stream) { return aclrtDestroyStream(stream); }

aclError aclrtSynchronizeStream(aclrtStream) {
    return wait_for(statistics.stream_waits, "stream");
}
aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t) { return aclrtSynchronizeStream(stream); }

aclError aclrtStreamQuery(aclrtStream, aclrtStreamStatus *status) {
    *status = ACL_STREAM_STATUS_COMPLETE;
    return ACL_SUCCESS;
}
aclError aclrtStreamGetId(aclrtStream stream, int32_t *id) {
    *id = stream ? ((SimulatedStream *)stream)->id : 0;
    return ACL_SUCCESS;
}
aclError aclrtStreamWaitEvent(aclrtStream, aclrtEvent) { return ACL_SUCCESS; }
aclError aclrtSetStreamFailureMode(aclrtStream, uint64_t) { return ACL_SUCCESS; }
aclError aclrtSetStreamOverflowSwitch(aclrtStream, uint32_t) { return ACL_SUCCESS; }
aclError aclrtGetStreamOverflowSwitch(aclrtStream, uint32_t *flag) {
    *flag = 0;
    return ACL_SUCCESS;
}

// Callbacks run at once: everything before them has.
aclError aclrtLaunchCallback(aclrtCallback callback, void *data, aclrtCallbackBlockType, aclrtStream) {
    callback(data);
    return ACL_SUCCESS;
}
aclError aclrtSubscribeReport(uint64_t, aclrtStream) { return ACL_SUCCESS; }
aclError aclrtUnSubscribeReport(uint64_t, aclrtStream) { return ACL_SUCCESS; }
aclError aclrtProcessReport(int32_t) {
    usleep(1000);
    return ACL_SUCCESS;
}

// ---- events: the time when they were recorded ----
struct SimulatedEvent {
    double ms;
};

aclError aclrtCreateEventExWithFlag(aclrtEvent *event, uint32_t) {
    *event = new SimulatedEvent{0};
    return ACL_SUCCESS;
}
aclError aclrtCreateEventWithFlag(aclrtEvent *event, uint32_t flag) { return aclrtCreateEventExWithFlag(event, flag); }
aclError aclrtDestroyEvent(aclrtEvent event) {
    delete (SimulatedEvent *)event;
    return ACL_SUCCESS;
}
aclError aclrtRecordEvent(aclrtEvent event, aclrtStream) {
    ((SimulatedEvent *)event)->ms = now_ms();
    return ACL_SUCCESS;
}
aclError aclrtResetEvent(aclrtEvent, aclrtStream) { return ACL_SUCCESS; }
aclError aclrtQueryEventStatus(aclrtEvent, aclrtEventRecordedStatus *status) {
    *status = ACL_EVENT_RECORDED_STATUS_COMPLETE;
    return ACL_SUCCESS;
}
aclError aclrtQueryEventWaitStatus(aclrtEvent, aclrtEventWaitStatus *status) {
    *status = ACL_EVENT_WAIT_STATUS_COMPLETE;
    return ACL_SUCCESS;
}
aclError aclrtSynchronizeEvent(aclrtEvent) {
    return wait_for(statistics.event_waits, "event");
}
aclError aclrtEventElapsedTime(float *ms, aclrtEvent start, aclrtEvent end) {
    *ms = (float)(((SimulatedEvent *)end)->ms - ((SimulatedEvent *)start)->ms);
    return ACL_SUCCESS;
}
aclError aclrtEventGetTimestamp(aclrtEvent event, uint64_t *microseconds) {
    *microseconds = (uint64_t)(((SimulatedEvent *)event)->ms * 1e3);
    return ACL_SUCCESS;
}

}  // extern "C"
