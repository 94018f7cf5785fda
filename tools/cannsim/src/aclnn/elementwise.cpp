// Operators that compute each element on its own, and copies.
#include "reference.h"

// ---- copies ----
ACLNN(InplaceCopy, (Out target, In source), target = *source)
ACLNN(Cast, (In self, Type, Out out), out = *self)

// ---- one argument: a function and its in-place form ----
#define UNARY(NAME, FUNCTION)                                    \
    ACLNN(NAME, (In self, Out out), out = at::FUNCTION(*self))   \
    ACLNN(Inplace##NAME, (Out self), self = at::FUNCTION(*self))

UNARY(Abs, abs)
UNARY(Acos, acos)
UNARY(Asin, asin)
UNARY(Atan, atan)
UNARY(Ceil, ceil)
UNARY(Cos, cos)
UNARY(Erf, erf)
UNARY(Erfc, erfc)
UNARY(Exp, exp)
UNARY(Exp2, exp2)
UNARY(Expm1, expm1)
UNARY(Floor, floor)
UNARY(Frac, frac)
UNARY(Hardsigmoid, hardsigmoid)
UNARY(Hardswish, hardswish)
UNARY(Log, log)
UNARY(Log10, log10)
UNARY(Log1p, log1p)
UNARY(Log2, log2)
UNARY(LogicalNot, logical_not)
UNARY(Mish, mish)
UNARY(Neg, neg)
UNARY(Reciprocal, reciprocal)
UNARY(Relu, relu)
UNARY(Round, round)
UNARY(Rsqrt, rsqrt)
UNARY(Sigmoid, sigmoid)
UNARY(Sign, sign)
UNARY(Sin, sin)
UNARY(Sqrt, sqrt)
UNARY(Tan, tan)
UNARY(Tanh, tanh)
UNARY(Trunc, trunc)

ACLNN(BitwiseNot, (In self, Out out), out = at::bitwise_not(*self))
ACLNN(IsFinite, (In self, Out out), out = at::isfinite(*self))
ACLNN(IsInf, (In self, Out out), out = at::isinf(*self))
ACLNN(IsNegInf, (In self, Out out), out = at::isneginf(*self))
ACLNN(IsPosInf, (In self, Out out), out = at::isposinf(*self))
ACLNN(NanToNum, (In self, float nan, float positive, float negative, Out out),
      out = at::nan_to_num(*self, nan, positive, negative))
ACLNN(InplaceNanToNum, (Out self, float nan, float positive, float negative),
      self = at::nan_to_num(*self, nan, positive, negative))

// ---- two arguments: with a tensor and with a number, each also in place ----
ACLNN(Add, (In self, In other, Number alpha, Out out), out = at::add(*self, *other, *alpha))
ACLNN(AddV3, (Number self, In other, Number alpha, Out out), out = at::add(at::mul(*other, *alpha), *self))
ACLNN(Adds, (In self, Number other, Number alpha, Out out), out = at::add(*self, *other, *alpha))
ACLNN(InplaceAdd, (Out self, In other, Number alpha), self = at::add(*self, *other, *alpha))
ACLNN(InplaceAdds, (Out self, Number other, Number alpha), self = at::add(*self, *other, *alpha))
ACLNN(Sub, (In self, In other, Number alpha, Out out), out = at::sub(*self, *other, *alpha))
ACLNN(Subs, (In self, Number other, Number alpha, Out out), out = at::sub(*self, *other, *alpha))
ACLNN(InplaceSub, (Out self, In other, Number alpha), self = at::sub(*self, *other, *alpha))
ACLNN(InplaceSubs, (Out self, Number other, Number alpha), self = at::sub(*self, *other, *alpha))
ACLNN(Rsub, (In self, In other, Number alpha, Out out), out = at::rsub(*self, *other, *alpha))
ACLNN(Rsubs, (In self, Number other, Number alpha, Out out), out = at::rsub(*self, *other, *alpha))

#define BINARY(NAME, FUNCTION)                                                        \
    ACLNN(NAME, (In self, In other, Out out), out = at::FUNCTION(*self, *other))      \
    ACLNN(Inplace##NAME, (Out self, In other), self = at::FUNCTION(*self, *other))
#define BINARY_NUMBER(NAME, FUNCTION)                                                 \
    ACLNN(NAME, (In self, Number other, Out out), out = at::FUNCTION(*self, *other))  \
    ACLNN(Inplace##NAME, (Out self, Number other), self = at::FUNCTION(*self, *other))

BINARY(Mul, mul)
BINARY_NUMBER(Muls, mul)
BINARY(Div, div)
BINARY_NUMBER(Divs, div)
BINARY(FloorDivide, floor_divide)
BINARY_NUMBER(FloorDivides, floor_divide)
BINARY(Atan2, atan2)
BINARY(Maximum, maximum)
BINARY(Minimum, minimum)
BINARY(EqTensor, eq)
BINARY_NUMBER(EqScalar, eq)
BINARY(NeTensor, ne)
BINARY_NUMBER(NeScalar, ne)
BINARY(LtTensor, lt)
BINARY_NUMBER(LtScalar, lt)
BINARY(LeTensor, le)
BINARY_NUMBER(LeScalar, le)
BINARY(GtTensor, gt)
BINARY_NUMBER(GtScalar, gt)
BINARY(GeTensor, ge)
BINARY_NUMBER(GeScalar, ge)
BINARY(LogicalAnd, logical_and)
BINARY(LogicalOr, logical_or)
BINARY(LogicalXor, logical_xor)
BINARY(BitwiseAndTensor, bitwise_and)
BINARY_NUMBER(BitwiseAndScalar, bitwise_and)
BINARY(BitwiseOrTensor, bitwise_or)
BINARY_NUMBER(BitwiseOrScalar, bitwise_or)
BINARY(BitwiseXorTensor, bitwise_xor)
BINARY_NUMBER(BitwiseXorScalar, bitwise_xor)
BINARY(PowTensorTensor, pow)
BINARY_NUMBER(PowTensorScalar, pow)
BINARY(RemainderTensorTensor, remainder)
BINARY_NUMBER(RemainderTensorScalar, remainder)
ACLNN(PowScalarTensor, (Number self, In exponent, Out out), out = at::pow(*self, *exponent))

// The rounding of a division: 1 towards zero, 2 towards minus infinity.
static c10::optional<c10::string_view> rounding(int mode) {
    if (mode == 0) return c10::nullopt;
    return c10::string_view(mode == 1 ? "trunc" : "floor");
}
ACLNN(DivMod, (In self, In other, int mode, Out out), out = at::div(*self, *other, rounding(mode)))
ACLNN(DivMods, (In self, Number other, int mode, Out out), out = at::div(*self, *other, rounding(mode)))
ACLNN(InplaceDivMod, (Out self, In other, int mode), self = at::div(*self, *other, rounding(mode)))
ACLNN(InplaceDivMods, (Out self, Number other, int mode), self = at::div(*self, *other, rounding(mode)))

ACLNN(Equal, (In self, In other, Out out), out = at::scalar_tensor(at::equal(*self, *other)))
ACLNN(IsClose, (In self, In other, double relative, double absolute, bool equal_nan, Out out),
      out = at::isclose(*self, *other, relative, absolute, equal_nan))

// ---- three arguments ----
ACLNN(Addcdiv, (In self, In a, In b, Number value, Out out), out = at::addcdiv(*self, *a, *b, *value))
ACLNN(Addcmul, (In self, In a, In b, Number value, Out out), out = at::addcmul(*self, *a, *b, *value))
ACLNN(InplaceAddcdiv, (Out self, In a, In b, Number value), self = at::addcdiv(*self, *a, *b, *value))
ACLNN(InplaceAddcmul, (Out self, In a, In b, Number value), self = at::addcmul(*self, *a, *b, *value))
ACLNN(Lerp, (In self, In end, In weight, Out out), out = at::lerp(*self, *end, *weight))
ACLNN(Lerps, (In self, In end, Number weight, Out out), out = at::lerp(*self, *end, *weight))
ACLNN(InplaceLerp, (Out self, In end, In weight), self = at::lerp(*self, *end, *weight))
ACLNN(InplaceLerps, (Out self, In end, Number weight), self = at::lerp(*self, *end, *weight))
ACLNN(SWhere, (In condition, In self, In other, Out out), out = at::where(*condition, *self, *other))
ACLNN(InplaceMaskedFillScalar, (Out self, In mask, Number value), self = at::masked_fill(*self, *mask, *value))
ACLNN(InplaceMaskedFillTensor, (Out self, In mask, In value), self = at::masked_fill(*self, *mask, (*value).reshape({})))
ACLNN(InplaceMaskedScatter, (Out self, In mask, In source), self = at::masked_scatter(*self, *mask, *source))

// ---- limits ----
ACLNN(Clamp, (In self, Number low, Number high, Out out),
      out = at::clamp(*self, low, high))
ACLNN(ClampTensor, (In self, In low, In high, Out out),
      out = at::clamp(*self, low, high))
ACLNN(ClampMin, (In self, Number low, Out out), out = at::clamp_min(*self, *low))
ACLNN(ClampMax, (In self, Number high, Out out), out = at::clamp_max(*self, *high))
ACLNN(ClampMinTensor, (In self, In low, Out out), out = at::clamp_min(*self, *low))
ACLNN(ClampMaxTensor, (In self, In high, Out out), out = at::clamp_max(*self, *high))
ACLNN(InplaceClampMax, (Out self, Number high), self = at::clamp_max(*self, *high))
ACLNN(InplaceClampMinTensor, (Out self, In low), self = at::clamp_min(*self, *low))
ACLNN(InplaceClampMaxTensor, (Out self, In high), self = at::clamp_max(*self, *high))
ACLNN(Threshold, (In self, Number threshold, Number value, Out out), out = at::threshold(*self, *threshold, *value))
ACLNN(InplaceThreshold, (Out self, Number threshold, Number value), self = at::threshold(*self, *threshold, *value))

// ---- activation functions and their gradients ----
static c10::string_view gelu_form(int64_t approximate) { return approximate ? "tanh" : "none"; }
ACLNN(Gelu, (In self, Out out), out = at::gelu(*self))
ACLNN(GeluV2, (In self, int64_t approximate, Out out), out = at::gelu(*self, gelu_form(approximate)))
ACLNN(GeluBackward, (In gradient, In self, Out out), out = at::gelu_backward(*gradient, *self))
ACLNN_TEXT(GeluBackwardV2, (In gradient, In self, const char *approximate_text, Out out), approximate,
      out = at::gelu_backward(*gradient, *self, approximate))
ACLNN(Silu, (In self, Out out), out = at::silu(*self))
ACLNN(SiluBackward, (In gradient, In self, Out out), out = at::silu_backward(*gradient, *self))
ACLNN(Softplus, (In self, Number beta, Number threshold, Out out), out = at::softplus(*self, *beta, *threshold))
ACLNN(SoftplusBackward, (In gradient, In self, Number beta, Number threshold, Out out),
      out = at::softplus_backward(*gradient, *self, *beta, *threshold))
ACLNN(LeakyRelu, (In self, Number slope, Out out), out = at::leaky_relu(*self, *slope))
ACLNN(InplaceLeakyRelu, (Out self, Number slope), self = at::leaky_relu(*self, *slope))
ACLNN(LeakyReluBackward, (In gradient, In self, Number slope, bool from_result, Out out),
      out = at::leaky_relu_backward(*gradient, *self, *slope, from_result))
ACLNN(SigmoidBackward, (In gradient, In result, Out out), out = at::sigmoid_backward(*gradient, *result))
ACLNN(TanhBackward, (In gradient, In result, Out out), out = at::tanh_backward(*gradient, *result))
ACLNN(ThresholdBackward, (In gradient, In self, Number threshold, Out out),
      out = at::threshold_backward(*gradient, *self, *threshold))
ACLNN(HardsigmoidBackward, (In gradient, In self, Out out), out = at::hardsigmoid_backward(*gradient, *self))
ACLNN(HardswishBackward, (In gradient, In self, Out out), out = at::hardswish_backward(*gradient, *self))
ACLNN(LogSigmoidForward, (In self, Out out, Out), out = std::get<0>(at::log_sigmoid_forward(*self)))
ACLNN(LogSigmoidBackward, (In gradient, In self, In, Out out), out = *gradient * at::sigmoid(-*self))
