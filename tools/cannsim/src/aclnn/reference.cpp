// The two phases of every simulated aclnn operator, and the way from CANN's objects to ATen's; see reference.h.
#include "reference.h"

#include <set>
#include <string>

#include "../simulator.h"

namespace cannsim {

static const int ERROR_INNER = 561103;  // what CANN's operators return for an internal failure

at::ScalarType scalar_type(int acl_type) {
    switch (acl_type) {
        case 0: return at::kFloat;
        case 1: return at::kHalf;
        case 2: return at::kChar;
        case 3: return at::kInt;
        case 4: return at::kByte;
        case 6: return at::kShort;
        case 9: return at::kLong;
        case 11: return at::kDouble;
        case 12: return at::kBool;
        case 16: return at::kComplexFloat;
        case 17: return at::kComplexDouble;
        case 27: return at::kBFloat16;
    }
    TORCH_CHECK(false, "aclDataType ", acl_type, " is not simulated");
}

at::Tensor tensor_over(const aclTensor *tensor) {
    if (!tensor) return {};
    const auto type = scalar_type(tensor->type);
    for (int64_t size : tensor->sizes)
        if (size == 0) return at::empty(tensor->sizes, at::dtype(type));
    char *data = (char *)tensor->data + tensor->offset * c10::elementSize(type);
    return at::from_blob(data, tensor->sizes, tensor->strides, at::dtype(type));
}

at::Scalar number(const aclScalar *scalar) {
    const auto type = scalar_type(scalar->type);
    return at::from_blob((void *)scalar->value, {}, at::dtype(type)).item();
}

at::Tensor unpack_bits(const at::Tensor &bytes, int64_t count) {
    const at::Tensor weights = at::pow(2, at::arange(8, at::kInt)).to(at::kByte);
    return bytes.reshape({-1, 1}).bitwise_and(weights).ne(0).view({-1}).narrow(0, 0, count);
}

void Out::shrink_to(const at::Tensor &value) const {
    object->sizes = value.sizes().vec();
    object->strides.assign(value.dim(), 1);
    for (int64_t i = value.dim() - 2; i >= 0; i--) object->strides[i] = object->strides[i + 1] * object->sizes[i + 1];
    if (value.numel()) tensor_over(object).copy_(value);
}

// Operators that only move or fill: float64 passes through them without being computed with.
static bool computes(const std::string &name) {
    static const std::set<std::string> movers = {"aclnnInplaceCopy", "aclnnCast", "aclnnInplaceZero",
                                                 "aclnnInplaceFillScalar"};
    return !movers.count(name);
}

struct Plan {
    const char *name;
    std::function<void()> body;
};

int plan(const char *name, uint64_t *workspace_bytes, void **executor, std::function<void()> body) {
    static const bool strict = setting("CANNSIM_STRICT", 0);
    const TensorFindings found = take_tensor_findings();
    if (!found.problem.empty()) {
        set_error("cannsim %s: %s", name, found.problem.c_str());
        return ERROR_INNER;
    }
    if (found.float64 && computes(name)) {
        note_float64(name);
        if (strict) {
            set_error("cannsim %s: float64 on the device, and CANNSIM_STRICT is set", name);
            return ERROR_INNER;
        }
    }
    const std::string wrong = judge(name);
    if (!wrong.empty()) {
        set_error("cannsim %s: %s", name, wrong.c_str());
        return ERROR_INNER;
    }
    *workspace_bytes = 0;
    *executor = new Plan{name, std::move(body)};
    return 0;
}

static int compute(const Plan *planned) {
    try {
        c10::impl::ExcludeDispatchKeyGuard no_autograd(c10::autograd_dispatch_keyset_with_ADInplaceOrView);
        planned->body();
    } catch (const std::exception &error) {
        set_error("cannsim %s: %s", planned->name, error.what());
        fprintf(stderr, "[cannsim] %s: %s\n", planned->name, error.what());
        return ERROR_INNER;
    }
    return 0;
}

int execute(void *executor) {
    std::shared_ptr<Plan> planned((Plan *)executor);
    if (capturing()) {
        keep([planned] { return compute(planned.get()); });
        return 0;
    }
    trace(planned->name);
    statistics.calls++;
    return compute(planned.get());
}

}  // namespace cannsim
