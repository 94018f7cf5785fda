// Reference bodies of the operators that torch_npu still calls through the older interface (aclop).
#include "../legacy_operators.h"
#include "../simulator.h"
#include "reference.h"

static Tensor over(const LegacyTensor &tensor) {
    const auto type = cannsim::scalar_type(tensor.descriptor->type);
    return at::from_blob(tensor.buffer->data, tensor.descriptor->sizes, at::dtype(type));
}

static bool run(const char *name, const LegacyCall &call, void (*body)(const LegacyCall &)) {
    try {
        c10::impl::ExcludeDispatchKeyGuard no_autograd(c10::autograd_dispatch_keyset_with_ADInplaceOrView);
        body(call);
        return true;
    } catch (const std::exception &error) {
        cannsim::set_error("cannsim %s: %s", name, error.what());
        return false;
    }
}

// Distances of broadcast points [.., rows, columns, channels] -> [.., rows, columns]; p = -1 stands for infinity.
static void cdist(const LegacyCall &call) {
    const float p = call.attributes->floats.at("p");
    const double order = p < 0 ? std::numeric_limits<double>::infinity() : p;
    const Tensor difference = over(call.inputs[0]) - over(call.inputs[1]);
    Tensor target = over(call.outputs[0]);
    target.copy_(at::linalg_vector_norm(difference, order, {-1}).reshape(target.sizes()));
}

// Gradient of cdist for the first set of points. Inputs are broadcast to [.., rows, columns, channels]:
// outer gradient, x1, x2, distance; output [.., rows, channels].
static void cdist_gradient(const LegacyCall &call) {
    const Tensor outer = over(call.inputs[0]), difference = over(call.inputs[1]) - over(call.inputs[2]);
    const Tensor distance = over(call.inputs[3]);
    const double p = call.attributes->floats.at("p");
    Tensor slope;
    if (p < 0)  // infinity
        slope = at::sign(difference) * (difference.abs() == distance);
    else if (p == 1)
        slope = at::sign(difference);
    else
        slope = at::sign(difference) * difference.abs().pow(p - 1) / distance.pow(p - 1);
    slope = at::where(distance == 0, at::zeros({}, slope.options()), slope);
    Tensor target = over(call.outputs[0]);
    target.copy_((slope * outer).sum(-2).reshape(target.sizes()));
}

static const bool registered = [] {
    register_legacy_operator("Cdist", [](const LegacyCall &call) { return run("Cdist", call, cdist); });
    register_legacy_operator("CdistGrad", [](const LegacyCall &call) { return run("CdistGrad", call, cdist_gradient); });
    return true;
}();
