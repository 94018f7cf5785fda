// Sums, means, extremes, norms, sorting and cumulative operators.
#include "reference.h"

template <class Pair>
static void both(const Pair &pair, Out first, Out second) {
    first = std::get<0>(pair);
    second = std::get<1>(pair);
}

ACLNN(ReduceSum, (In self, Integers dimensions, bool keep, Type type, Out out),
      out = at::sum(*self, at::OptionalIntArrayRef(*dimensions), keep, (at::ScalarType)type))
ACLNN(ReduceNansum, (In self, Integers dimensions, bool keep, Type type, Out out),
      out = at::nansum(*self, at::OptionalIntArrayRef(*dimensions), keep, (at::ScalarType)type))
ACLNN(Mean, (In self, Integers dimensions, bool keep, Type type, Out out),
      out = at::mean(*self, at::OptionalIntArrayRef(*dimensions), keep, (at::ScalarType)type))
ACLNN(Prod, (In self, Type type, Out out), out = at::prod(*self, (at::ScalarType)type))
ACLNN(ProdDim, (In self, int64_t dimension, bool keep, Type type, Out out),
      out = at::prod(*self, dimension, keep, (at::ScalarType)type))
ACLNN(Std, (In self, Integers dimensions, int64_t correction, bool keep, Out out),
      out = at::std(*self, at::OptionalIntArrayRef(*dimensions), Scalar(correction), keep))
ACLNN(VarCorrection, (In self, Integers dimensions, int64_t correction, bool keep, Out out),
      out = at::var(*self, at::OptionalIntArrayRef(*dimensions), Scalar(correction), keep))
ACLNN(VarMean, (In self, Integers dimensions, int64_t correction, bool keep, Out variance, Out mean),
      both(at::var_mean(*self, at::OptionalIntArrayRef(*dimensions), Scalar(correction), keep), variance, mean))
ACLNN(LogSumExp, (In self, Integers dimensions, bool keep, Out out), out = at::logsumexp(*self, *dimensions, keep))
ACLNN(Norm, (In self, Number p, Integers dimensions, bool keep, Out out),
      out = at::norm(*self, *p, *dimensions, keep))
ACLNN(LinalgVectorNorm, (In self, Number order, Integers dimensions, bool keep, Type type, Out out),
      out = at::linalg_vector_norm(*self, *order, at::OptionalIntArrayRef(*dimensions), keep, (at::ScalarType)type))

// ---- logical ----
static Tensor over(const Tensor &self, at::IntArrayRef dimensions, bool keep, bool all) {
    if (dimensions.empty()) return all ? at::all(self) : at::any(self);
    Tensor result = self;
    auto sorted = dimensions.vec();
    for (auto &dimension : sorted) dimension = at::maybe_wrap_dim(dimension, self.dim());
    std::sort(sorted.rbegin(), sorted.rend());
    for (auto dimension : sorted) result = all ? at::all(result, dimension, keep) : at::any(result, dimension, keep);
    return result;
}
ACLNN(All, (In self, Integers dimensions, bool keep, Out out), out = over(*self, dimensions, keep, true))
ACLNN(Any, (In self, Integers dimensions, bool keep, Out out), out = over(*self, dimensions, keep, false))

// ---- extremes ----
ACLNN(Max, (In self, Out out), out = at::max(*self))
ACLNN(Min, (In self, Out out), out = at::min(*self))
ACLNN(MaxDim, (In self, int64_t dimension, bool keep, Out values, Out indices),
      both(at::max(*self, dimension, keep), values, indices))
ACLNN(MinDim, (In self, int64_t dimension, bool keep, Out values, Out indices),
      both(at::min(*self, dimension, keep), values, indices))
ACLNN(Amax, (In self, Integers dimensions, bool keep, Out out), out = at::amax(*self, *dimensions, keep))
ACLNN(Amin, (In self, Integers dimensions, bool keep, Out out), out = at::amin(*self, *dimensions, keep))
ACLNN(ArgMax, (In self, int64_t dimension, bool keep, Out out), out = at::argmax(*self, dimension, keep))
ACLNN(ArgMin, (In self, int64_t dimension, bool keep, Out out), out = at::argmin(*self, dimension, keep))

// ---- order ----
ACLNN(Sort, (In self, bool stable, int64_t dimension, bool descending, Out values, Out indices),
      both(at::sort(*self, stable, dimension, descending), values, indices))
ACLNN(Topk, (In self, int64_t k, int64_t dimension, bool largest, bool sorted, Out values, Out indices),
      both(at::topk(*self, k, dimension, largest, sorted), values, indices))
ACLNN(TopkV2, (In self, int64_t k, int64_t dimension, bool largest, bool sorted, Out values, Out indices),
      both(at::topk(*self, k, dimension, largest, sorted), values, indices))
ACLNN(SearchSorted, (In sequence, In self, bool out_int32, bool right, In sorter, Out out),
      out = at::searchsorted(*sequence, *self, out_int32, right, c10::nullopt, sorter))

// ---- cumulative ----
ACLNN(Cumprod, (In self, Number dimension, Type type, Out out),
      out = at::cumprod(*self, (*dimension).toLong(), (at::ScalarType)type))
ACLNN(Cumsum, (In self, int64_t dimension, Type type, Out out), out = at::cumsum(*self, dimension, (at::ScalarType)type))
ACLNN(Cummax, (In self, int64_t dimension, Out values, Out indices), both(at::cummax(*self, dimension), values, indices))
ACLNN(Cummin, (In self, int64_t dimension, Out values, Out indices), both(at::cummin(*self, dimension), values, indices))
