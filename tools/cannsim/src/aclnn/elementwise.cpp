// Operators that compute each element on its own, and copies.
#include "reference.h"

// ---- fills and copies ----
ACLNN(InplaceCopy, (Out target, In source), target = *source)
ACLNN(Cast, (In self, Type, Out out), out = *self)
ACLNN(InplaceZero, (Out self), (*self).zero_())
ACLNN(InplaceOne, (Out self), (*self).fill_(1))
ACLNN(InplaceFillScalar, (Out self, Number value), (*self).fill_(*value))
ACLNN(Add, (In self, In other, Number alpha, Out out), out = at::add(self, other, alpha))
