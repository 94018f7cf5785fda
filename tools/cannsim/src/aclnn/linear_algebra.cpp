// Matrix products and distances. The int8_t at the end of a product is CANN's "cube math type" (HF32 allowed or not).
#include "reference.h"

ACLNN(Mm, (In self, In other, Out out, int8_t), out = at::mm(*self, *other))
ACLNN(Matmul, (In self, In other, Out out, int8_t), out = at::matmul(*self, *other))
ACLNN(BatchMatMul, (In self, In other, Out out, int8_t), out = at::matmul(*self, *other))
ACLNN(Mv, (In self, In vector, Out out, int8_t), out = at::mv(*self, *vector))
ACLNN(Dot, (In self, In other, Out out), out = at::dot(*self, *other))
ACLNN(Addmm, (In self, In a, In b, Number beta, Number alpha, Out out, int8_t),
      out = at::addmm(*self, *a, *b, *beta, *alpha))
ACLNN(InplaceAddmm, (Out self, In a, In b, Number beta, Number alpha, int8_t),
      self = at::addmm(*self, *a, *b, *beta, *alpha))
ACLNN(Addmv, (In self, In matrix, In vector, Number alpha, Number beta, Out out, int8_t),
      out = at::addmv(*self, *matrix, *vector, *beta, *alpha))
ACLNN(Baddbmm, (In self, In a, In b, Number beta, Number alpha, Out out, int8_t),
      out = at::baddbmm(*self, *a, *b, *beta, *alpha))
ACLNN(Addbmm, (In self, In a, In b, Number beta, Number alpha, Out out, int8_t),
      out = at::addbmm(*self, *a, *b, *beta, *alpha))
ACLNN(Inverse, (In self, Out out), out = at::inverse(*self))
