// Operators of optimisers: lists of tensors at once (foreach), and fused AdamW.
#include "reference.h"

ACLNN(ForeachAddListV2, (Ins a, Ins b, Number alpha, Outs out), out = at::_foreach_add(*a, *b, *alpha))
ACLNN(ForeachSubListV2, (Ins a, Ins b, Number alpha, Outs out), out = at::_foreach_sub(*a, *b, *alpha))
ACLNN(ForeachAddScalarV2, (Ins self, Number value, Outs out), out = at::_foreach_add(*self, *value))
ACLNN(ForeachSubScalarV2, (Ins self, Number value, Outs out), out = at::_foreach_sub(*self, *value))
ACLNN(ForeachAddScalarList, (Ins self, Numbers values, Outs out), out = at::_foreach_add(*self, *values))
ACLNN(ForeachMulList, (Ins a, Ins b, Outs out), out = at::_foreach_mul(*a, *b))
ACLNN(ForeachMulScalarV2, (Ins self, Number value, Outs out), out = at::_foreach_mul(*self, *value))
ACLNN(ForeachMulScalarList, (Ins self, Numbers values, Outs out), out = at::_foreach_mul(*self, *values))
ACLNN(ForeachDivList, (Ins a, Ins b, Outs out), out = at::_foreach_div(*a, *b))
ACLNN(ForeachDivScalarV2, (Ins self, Number value, Outs out), out = at::_foreach_div(*self, *value))
ACLNN(ForeachDivScalarList, (Ins self, Numbers values, Outs out), out = at::_foreach_div(*self, *values))
ACLNN(ForeachLerpList, (Ins self, Ins end, Ins weight, Outs out), out = at::_foreach_lerp(*self, *end, *weight))
ACLNN(ForeachLerpScalar, (Ins self, Ins end, Number weight, Outs out), out = at::_foreach_lerp(*self, *end, *weight))
ACLNN(ForeachAddcmulScalarV2, (Ins self, Ins a, Ins b, Number value, Outs out),
      out = at::_foreach_addcmul(*self, *a, *b, *value))
ACLNN(ForeachAddcmulScalarList, (Ins self, Ins a, Ins b, Numbers values, Outs out),
      out = at::_foreach_addcmul(*self, *a, *b, at::ArrayRef<Scalar>(*values)))
ACLNN(ForeachAddcdivScalarV2, (Ins self, Ins a, Ins b, Number value, Outs out),
      out = at::_foreach_addcdiv(*self, *a, *b, *value))
ACLNN(ForeachAddcdivScalarList, (Ins self, Ins a, Ins b, Numbers values, Outs out),
      out = at::_foreach_addcdiv(*self, *a, *b, at::ArrayRef<Scalar>(*values)))
ACLNN(ForeachSqrt, (Ins self, Outs out), out = at::_foreach_sqrt(*self))
ACLNN(ForeachAbs, (Ins self, Outs out), out = at::_foreach_abs(*self))
ACLNN(ForeachNeg, (Ins self, Outs out), out = at::_foreach_neg(*self))
ACLNN(ForeachReciprocal, (Ins self, Outs out), out = at::_foreach_reciprocal(*self))
ACLNN(ForeachMaximumList, (Ins a, Ins b, Outs out), out = at::_foreach_maximum(*a, *b))
ACLNN(ForeachNorm, (Ins self, Number order, Outs out), out = at::_foreach_norm(*self, *order))
ACLNN(ForeachZeroInplace, (Ins self), for (Tensor &tensor : *self) tensor.zero_())
ACLNN(ForeachCopy, (Ins source, Outs target), target = *source)
// GradScaler: unscales the gradients in place and tells whether any was not finite
ACLNN(ForeachNonFiniteCheckAndUnscale, (Ins gradients, Out found, In inverse_scale),
      for (Tensor &gradient : *gradients) {
          if (!gradient.isfinite().all().item<bool>()) (*found).fill_(1);
          gradient.mul_(*inverse_scale);
      })

// AdamW (Loshchilov and Hutter 2019, algorithm 2), one parameter a call; step counts from 0
ACLNN(ApplyAdamWV2,
      (Out parameter, Out average, Out square_average, Out largest, In gradient, In step, float rate, float beta1,
       float beta2, float decay, float epsilon, bool amsgrad, bool maximize),
      Tensor w = *parameter; Tensor m = *average; Tensor v = *square_average; Tensor g = (*gradient).to(m.scalar_type());
      if (maximize) g = -g; const double count = (*step).item<double>() + 1; w.mul_(1 - (double)rate * decay);
      m.lerp_(g, 1 - beta1); v.mul_(beta2).addcmul_(g, g, 1 - beta2); Tensor second = v;
      if (amsgrad) { (*largest).copy_(at::maximum(*largest, v)); second = *largest; }
      Tensor denominator = (second / (1 - std::pow((double)beta2, count))).sqrt_().add_(epsilon);
      w.addcdiv_(m / (1 - std::pow((double)beta1, count)), denominator, -(double)rate))
