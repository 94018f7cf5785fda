// Creates and destroys aclTensor, aclScalar and their lists (libnnopbase); see objects.h.
#include "objects.h"

#include <cstring>

#include "acl/acl_base.h"
#include "simulator.h"

static thread_local TensorFindings findings;

TensorFindings take_tensor_findings() {
    TensorFindings taken = findings;
    findings = {};
    return taken;
}

static void look_at(const aclTensor &tensor) {
    if (tensor.type == ACL_DOUBLE) findings.float64 = true;
    bool empty = false;
    for (int64_t size : tensor.sizes) empty |= size == 0;
    if (empty || !tensor.data) return;
    const int device = cannsim::device_of(tensor.data);
    if (device == cannsim::current_device()) return;
    findings.problem = device == cannsim::HOST
                           ? "a tensor lies in host memory"
                           : "a tensor lies on npu:" + std::to_string(device) + ", the operator runs on npu:" +
                                 std::to_string(cannsim::current_device());
}

static size_t bytes_of(aclDataType type) {
    switch (type) {
        case ACL_BOOL: case ACL_INT8: case ACL_UINT8: return 1;
        case ACL_FLOAT16: case ACL_BF16: case ACL_INT16: case ACL_UINT16: return 2;
        case ACL_FLOAT: case ACL_INT32: case ACL_UINT32: return 4;
        case ACL_COMPLEX128: return 16;
        default: return 8;
    }
}

// A graph that is being captured needs its operators' objects as long as it lives, which is to the end of the process.
template <class Object>
static int destroy(const Object *object) {
    if (!cannsim::capturing()) delete object;
    return 0;
}

extern "C" {

aclTensor *aclCreateTensor(const int64_t *sizes, uint64_t dimensions, aclDataType type, const int64_t *strides,
                           int64_t offset, aclFormat, const int64_t *, uint64_t, void *data) {
    auto *tensor = new aclTensor{type, {sizes, sizes + dimensions}, {strides, strides + dimensions}, offset, data};
    look_at(*tensor);
    return tensor;
}
int aclDestroyTensor(const aclTensor *tensor) { return destroy(tensor); }

// After an operator with a data-dependent result torch_npu asks for the true shape; it frees the array with delete[].
int aclGetViewShape(const aclTensor *tensor, int64_t **sizes, uint64_t *dimensions) {
    *dimensions = tensor->sizes.size();
    *sizes = new int64_t[tensor->sizes.size() + 1];
    std::memcpy(*sizes, tensor->sizes.data(), tensor->sizes.size() * sizeof(int64_t));
    return 0;
}

aclScalar *aclCreateScalar(void *value, aclDataType type) {
    auto *scalar = new aclScalar{type, {}};
    std::memcpy(scalar->value, value, bytes_of(type));
    return scalar;
}
int aclDestroyScalar(const aclScalar *scalar) { return destroy(scalar); }

aclIntArray *aclCreateIntArray(const int64_t *values, uint64_t count) { return new aclIntArray{{values, values + count}}; }
int aclDestroyIntArray(const aclIntArray *array) { return destroy(array); }
aclBoolArray *aclCreateBoolArray(const bool *values, uint64_t count) { return new aclBoolArray{{values, values + count}}; }
int aclDestroyBoolArray(const aclBoolArray *array) { return destroy(array); }
aclFloatArray *aclCreateFloatArray(const float *values, uint64_t count) {
    return new aclFloatArray{{values, values + count}};
}
int aclDestroyFloatArray(const aclFloatArray *array) { return destroy(array); }

// A list owns its members.
aclTensorList *aclCreateTensorList(aclTensor *const *values, uint64_t count) {
    return new aclTensorList{{values, values + count}};
}
int aclDestroyTensorList(const aclTensorList *list) {
    for (auto *tensor : list->values) destroy(tensor);
    return destroy(list);
}
aclScalarList *aclCreateScalarList(aclScalar *const *values, uint64_t count) {
    return new aclScalarList{{values, values + count}};
}
int aclDestroyScalarList(const aclScalarList *list) {
    for (auto *scalar : list->values) destroy(scalar);
    return destroy(list);
}

int aclDestroyAclOpExecutor(void *) { return 0; }

// Where every operator ends that has no reference body (build.py).
int cannsim_operator_missing(const char *name) {
    take_tensor_findings();
    cannsim::set_error("cannsim: %s is not simulated; tools/cannsim/README.md says how to add it", name);
    return 561103;
}

}
