// HCCL between processes of one machine, over a shared-memory file: each rank has a slot, and a collective is "publish
// in my slot, barrier, read the slots of the others, barrier", chunk by chunk. Reductions run in rank order on every
// rank, so that all ranks get bit-equal results. Collectives are synchronous.
#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <string>

#include "hccl/hccl.h"
#include "simulator.h"

using cannsim::set_error;

static const size_t SLOT_BYTES = 16u << 20;
static const uint32_t MAX_RANKS = 64;

// The head of the shared file. The kernel zeroes a new file, which is the right start for every member.
struct Header {
    std::atomic<uint32_t> attached, arrived, generation;
    std::atomic<uint32_t> mail_full[MAX_RANKS][MAX_RANKS];  // a message from the first rank to the second is waiting
};
static const size_t HEADER_BYTES = (sizeof(Header) + 4095) & ~size_t(4095);

struct Communicator {
    uint32_t rank, ranks;
    char *base;
    size_t bytes;
    std::string name;

    Header *header() const { return (Header *)base; }
    char *slot(uint32_t owner) const { return base + HEADER_BYTES + owner * SLOT_BYTES; }
};

// Waits while `value` is `unwanted`; false when a peer stays away for CANNSIM_HCCL_TIMEOUT seconds (a dead rank must
// not leave the others hanging).
static bool wait_while(const std::atomic<uint32_t> &value, uint32_t unwanted) {
    static const int limit = cannsim::setting("CANNSIM_HCCL_TIMEOUT", 600);
    const time_t begin = time(nullptr);
    for (int turn = 0; value.load(std::memory_order_acquire) == unwanted; turn++) {
        if (turn < 50) continue;
        usleep(turn > 2000 ? 500 : 20);
        if (time(nullptr) - begin > limit) {
            set_error("cannsim HCCL: another rank did not come within CANNSIM_HCCL_TIMEOUT=%d s", limit);
            return false;
        }
    }
    return true;
}

static bool barrier(const Communicator &group) {
    Header *header = group.header();
    const uint32_t generation = header->generation.load();
    if (header->arrived.fetch_add(1) + 1 < group.ranks) return wait_while(header->generation, generation);
    header->arrived = 0;
    header->generation.fetch_add(1);
    return true;
}

static HcclResult join(const std::string &file, uint32_t ranks, uint32_t rank, HcclComm *result) {
    if (ranks > MAX_RANKS) {
        set_error("cannsim HCCL: %u ranks, at most %u", ranks, MAX_RANKS);
        return HCCL_E_PARA;
    }
    const size_t bytes = HEADER_BYTES + ranks * SLOT_BYTES;
    const int descriptor = open(file.c_str(), O_RDWR | O_CREAT, 0600);
    if (descriptor < 0 || ftruncate(descriptor, bytes)) {
        set_error("cannsim HCCL: cannot make %s", file.c_str());
        return HCCL_E_SYSCALL;
    }
    char *base = (char *)mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (base == MAP_FAILED) {
        set_error("cannsim HCCL: cannot map %zu bytes of %s", bytes, file.c_str());
        return HCCL_E_SYSCALL;
    }
    auto *group = new Communicator{rank, ranks, base, bytes, file.substr(file.rfind('/') + 1)};
    const uint32_t seen = group->header()->attached.fetch_add(1) + 1;
    if (seen > ranks || !barrier(*group)) return HCCL_E_TIMEOUT;
    if (rank == 0) unlink(file.c_str());  // everybody has it mapped
    *result = group;
    return HCCL_SUCCESS;
}

// ---- reductions ----
static size_t bytes_of(HcclDataType type) {
    switch (type) {
        case HCCL_DATA_TYPE_INT8: case HCCL_DATA_TYPE_UINT8: return 1;
        case HCCL_DATA_TYPE_INT16: case HCCL_DATA_TYPE_UINT16: case HCCL_DATA_TYPE_FP16: case HCCL_DATA_TYPE_BFP16: return 2;
        case HCCL_DATA_TYPE_INT32: case HCCL_DATA_TYPE_UINT32: case HCCL_DATA_TYPE_FP32: return 4;
        case HCCL_DATA_TYPE_INT64: case HCCL_DATA_TYPE_UINT64: case HCCL_DATA_TYPE_FP64: return 8;
        default: return 1;
    }
}

static float bfloat16_to_float(uint16_t value) {
    const uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}
static uint16_t float_to_bfloat16(float value) {  // to nearest, ties to even
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

template <class T>
static T combine(T a, T b, HcclReduceOp operation) {
    switch (operation) {
        case HCCL_REDUCE_SUM: return a + b;
        case HCCL_REDUCE_PROD: return a * b;
        case HCCL_REDUCE_MAX: return std::max(a, b);
        default: return std::min(a, b);
    }
}

template <class Value, class Wide>
static void reduce_into(void *sum, const void *part, size_t count, HcclReduceOp operation) {
    auto *a = (Value *)sum;
    auto *b = (const Value *)part;
    for (size_t i = 0; i < count; i++) a[i] = (Value)combine<Wide>((Wide)a[i], (Wide)b[i], operation);
}

static bool reduce_into(void *sum, const void *part, size_t count, HcclDataType type, HcclReduceOp operation) {
    switch (type) {
        case HCCL_DATA_TYPE_FP32: reduce_into<float, float>(sum, part, count, operation); return true;
        case HCCL_DATA_TYPE_FP64: reduce_into<double, double>(sum, part, count, operation); return true;
        case HCCL_DATA_TYPE_INT8: reduce_into<int8_t, int>(sum, part, count, operation); return true;
        case HCCL_DATA_TYPE_UINT8: reduce_into<uint8_t, int>(sum, part, count, operation); return true;
        case HCCL_DATA_TYPE_INT16: reduce_into<int16_t, int>(sum, part, count, operation); return true;
        case HCCL_DATA_TYPE_INT32: reduce_into<int32_t, int64_t>(sum, part, count, operation); return true;
        case HCCL_DATA_TYPE_INT64: reduce_into<int64_t, int64_t>(sum, part, count, operation); return true;
        case HCCL_DATA_TYPE_FP16: reduce_into<_Float16, float>(sum, part, count, operation); return true;
        case HCCL_DATA_TYPE_BFP16: {
            auto *a = (uint16_t *)sum;
            auto *b = (const uint16_t *)part;
            for (size_t i = 0; i < count; i++)
                a[i] = float_to_bfloat16(combine(bfloat16_to_float(a[i]), bfloat16_to_float(b[i]), operation));
            return true;
        }
        default: set_error("cannsim HCCL: reduction of data type %d", (int)type); return false;
    }
}

// Publishes `bytes` of `source` (nullptr: nothing) chunk by chunk; read(offset, length) runs while all slots are filled.
template <class Read>
static HcclResult exchange(const Communicator &group, const void *source, size_t bytes, Read read) {
    if (cannsim::refuse_while_capturing("a collective other than HcclAllReduce")) return HCCL_E_NOT_SUPPORT;
    for (size_t offset = 0; offset < bytes; offset += SLOT_BYTES) {
        const size_t length = std::min(SLOT_BYTES, bytes - offset);
        if (source) memcpy(group.slot(group.rank), (const char *)source + offset, length);
        if (!barrier(group) || !read(offset, length) || !barrier(group)) return HCCL_E_TIMEOUT;
    }
    return HCCL_SUCCESS;
}

static bool reduce_slots(const Communicator &group, char *target, size_t length, HcclDataType type, HcclReduceOp operation) {
    memcpy(target, group.slot(0), length);
    for (uint32_t rank = 1; rank < group.ranks; rank++)
        if (!reduce_into(target, group.slot(rank), length / bytes_of(type), type, operation)) return false;
    return true;
}

static const Communicator &begin(HcclComm handle, const char *name) {
    cannsim::trace(name);
    cannsim::statistics.collectives++;
    return *(Communicator *)handle;
}

extern "C" {

// ---- communicators ----
HcclResult HcclGetRootInfo(HcclRootInfo *root) {
    static std::atomic<int> number{0};
    memset(root, 0, sizeof *root);
    snprintf(root->internal, 200, "/dev/shm/cannsim_%d_%ld_%d", getpid(), (long)time(nullptr), number++);
    return HCCL_SUCCESS;
}
HcclResult HcclCommInitRootInfo(uint32_t ranks, const HcclRootInfo *root, uint32_t rank, HcclComm *handle) {
    cannsim::trace("HcclCommInitRootInfo");
    return join(root->internal, ranks, rank, handle);
}
HcclResult HcclCommInitRootInfoConfig(uint32_t ranks, const HcclRootInfo *root, uint32_t rank, const HcclCommConfig *,
                                      HcclComm *handle) {
    return HcclCommInitRootInfo(ranks, root, rank, handle);
}
// The memory stays mapped until the process ends: torch_npu's launch queue may still hold collectives of this group,
// which a real HCCL would have launched long ago.
HcclResult HcclCommDestroy(HcclComm) { return HCCL_SUCCESS; }
HcclResult HcclCommInitAll(uint32_t, int32_t *, HcclComm *) { return HCCL_E_NOT_SUPPORT; }
HcclResult HcclGetCommName(HcclComm handle, char *name) {
    snprintf(name, COMM_NAME_MAX_LENGTH, "%s", ((Communicator *)handle)->name.c_str());
    return HCCL_SUCCESS;
}
HcclResult HcclGetCommAsyncError(HcclComm, HcclResult *error) {
    *error = HCCL_SUCCESS;
    return HCCL_SUCCESS;
}
uint32_t HcclGetCommConfigCapability() { return 0; }
HcclResult HcclSetConfig(HcclConfig, HcclConfigValue) { return HCCL_SUCCESS; }
HcclResult HcclGetRankSize(HcclComm handle, uint32_t *ranks) {
    *ranks = ((Communicator *)handle)->ranks;
    return HCCL_SUCCESS;
}
HcclResult HcclGetRankId(HcclComm handle, uint32_t *rank) {
    *rank = ((Communicator *)handle)->rank;
    return HCCL_SUCCESS;
}
const char *HcclGetErrorString(HcclResult) { return aclGetRecentErrMsg(); }

// ---- collectives ----
HcclResult HcclBarrier(HcclComm handle, aclrtStream) {
    return barrier(begin(handle, "HcclBarrier")) ? HCCL_SUCCESS : HCCL_E_TIMEOUT;
}

HcclResult HcclAllReduce(void *send, void *receive, uint64_t count, HcclDataType type, HcclReduceOp operation,
                         HcclComm handle, aclrtStream) {
    auto work = [=] {
        const auto &group = begin(handle, "HcclAllReduce");
        return exchange(group, send, count * bytes_of(type), [&](size_t offset, size_t length) {
            return reduce_slots(group, (char *)receive + offset, length, type, operation);
        });
    };
    if (!cannsim::capturing()) return work();
    cannsim::keep(work);
    return HCCL_SUCCESS;
}

HcclResult HcclReduce(void *send, void *receive, uint64_t count, HcclDataType type, HcclReduceOp operation, uint32_t root,
                      HcclComm handle, aclrtStream) {
    const auto &group = begin(handle, "HcclReduce");
    return exchange(group, send, count * bytes_of(type), [&](size_t offset, size_t length) {
        return group.rank != root || reduce_slots(group, (char *)receive + offset, length, type, operation);
    });
}

HcclResult HcclBroadcast(void *buffer, uint64_t count, HcclDataType type, uint32_t root, HcclComm handle, aclrtStream) {
    const auto &group = begin(handle, "HcclBroadcast");
    const void *source = group.rank == root ? buffer : nullptr;
    return exchange(group, source, count * bytes_of(type), [&](size_t offset, size_t length) {
        if (group.rank != root) memcpy((char *)buffer + offset, group.slot(root), length);
        return true;
    });
}

HcclResult HcclAllGather(void *send, void *receive, uint64_t count, HcclDataType type, HcclComm handle, aclrtStream) {
    const auto &group = begin(handle, "HcclAllGather");
    const size_t bytes = count * bytes_of(type);
    return exchange(group, send, bytes, [&](size_t offset, size_t length) {
        for (uint32_t rank = 0; rank < group.ranks; rank++)
            memcpy((char *)receive + rank * bytes + offset, group.slot(rank), length);
        return true;
    });
}

HcclResult HcclReduceScatter(void *send, void *receive, uint64_t count, HcclDataType type, HcclReduceOp operation,
                             HcclComm handle, aclrtStream) {
    const auto &group = begin(handle, "HcclReduceScatter");
    const size_t bytes = count * bytes_of(type);
    for (uint32_t owner = 0; owner < group.ranks; owner++) {
        const HcclResult result =
            exchange(group, (char *)send + owner * bytes, bytes, [&](size_t offset, size_t length) {
                return group.rank != owner || reduce_slots(group, (char *)receive + offset, length, type, operation);
            });
        if (result != HCCL_SUCCESS) return result;
    }
    return HCCL_SUCCESS;
}

HcclResult HcclScatter(void *send, void *receive, uint64_t count, HcclDataType type, uint32_t root, HcclComm handle,
                       aclrtStream) {
    const auto &group = begin(handle, "HcclScatter");
    const size_t bytes = count * bytes_of(type);
    for (uint32_t owner = 0; owner < group.ranks; owner++) {
        const void *source = group.rank == root ? (char *)send + owner * bytes : nullptr;
        const HcclResult result = exchange(group, source, bytes, [&](size_t offset, size_t length) {
            if (group.rank == owner) memcpy((char *)receive + offset, group.slot(root), length);
            return true;
        });
        if (result != HCCL_SUCCESS) return result;
    }
    return HCCL_SUCCESS;
}

// ---- point to point: the sender waits until its message is taken ----
HcclResult HcclSend(void *buffer, uint64_t count, HcclDataType type, uint32_t to, HcclComm handle, aclrtStream) {
    const auto &group = begin(handle, "HcclSend");
    const size_t bytes = count * bytes_of(type);
    auto &full = group.header()->mail_full[group.rank][to];
    for (size_t offset = 0; offset < bytes; offset += SLOT_BYTES) {
        memcpy(group.slot(group.rank), (char *)buffer + offset, std::min(SLOT_BYTES, bytes - offset));
        full.store(1, std::memory_order_release);
        if (!wait_while(full, 1)) return HCCL_E_TIMEOUT;
    }
    return HCCL_SUCCESS;
}

HcclResult HcclRecv(void *buffer, uint64_t count, HcclDataType type, uint32_t from, HcclComm handle, aclrtStream) {
    const auto &group = begin(handle, "HcclRecv");
    const size_t bytes = count * bytes_of(type);
    auto &full = group.header()->mail_full[from][group.rank];
    for (size_t offset = 0; offset < bytes; offset += SLOT_BYTES) {
        if (!wait_while(full, 0)) return HCCL_E_TIMEOUT;
        memcpy((char *)buffer + offset, group.slot(from), std::min(SLOT_BYTES, bytes - offset));
        full.store(0, std::memory_order_release);
    }
    return HCCL_SUCCESS;
}

}  // extern "C"
