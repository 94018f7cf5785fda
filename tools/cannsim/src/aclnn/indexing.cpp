// Operators that move elements: gather, scatter, indexing, joining, padding, rolling.
#include "reference.h"

static Tensor as_long(const Tensor &index) { return index.scalar_type() == at::kBool ? index : index.to(at::kLong); }

// ---- gather and scatter ----
ACLNN(Gather, (In self, int64_t dimension, In index, Out out), out = at::gather(*self, dimension, as_long(*index)))
ACLNN(Scatter, (In self, int64_t dimension, In index, In source, int64_t reduction, Out out),
      out = reduction == 1   ? at::scatter_add(*self, dimension, as_long(*index), *source)
            : reduction == 2 ? at::scatter_reduce(*self, dimension, as_long(*index), *source, "prod")
                             : at::scatter(*self, dimension, as_long(*index), *source))
ACLNN(ScatterAdd, (In self, int64_t dimension, In index, In source, Out out),
      out = at::scatter_add(*self, dimension, as_long(*index), *source))
ACLNN(ScatterValue, (In self, int64_t dimension, In index, Number value, int64_t, Out out),
      out = at::scatter(*self, dimension, as_long(*index), *value))
ACLNN(InplaceScatter, (Out self, int64_t dimension, In index, In source, int64_t),
      (*self).scatter_(dimension, as_long(*index), *source))
ACLNN(InplaceScatterValue, (Out self, int64_t dimension, In index, Number value, int64_t),
      (*self).scatter_(dimension, as_long(*index), *value))

// ---- advanced indexing ----
// torch_npu passes an empty tensor of self's type for a missing index (":"); an index may truly be empty as well.
static c10::List<c10::optional<Tensor>> index_list(const Tensor &self, const std::vector<Tensor> &indices) {
    bool some = false;
    for (const auto &index : indices) some |= index.numel() > 0;
    c10::List<c10::optional<Tensor>> list;
    for (const auto &index : indices) {
        const bool placeholder = index.numel() == 0 && index.scalar_type() == self.scalar_type();
        const bool missing = placeholder && (some || !at::isIntegralType(index.scalar_type(), true));
        list.push_back(missing ? c10::nullopt : c10::optional<Tensor>(as_long(index)));
    }
    return list;
}
ACLNN(Index, (In self, Ins indices, Out out), out = at::index(*self, index_list(*self, *indices)))
ACLNN(IndexPutImpl, (Out self, Ins indices, In values, bool accumulate, bool),
      (*self).index_put_(index_list(*self, *indices), *values, accumulate))
ACLNN(IndexSelect, (In self, int64_t dimension, In index, Out out),
      out = at::index_select(*self, dimension, as_long(*index)))
ACLNN(IndexAdd, (In self, int64_t dimension, In index, In source, Number alpha, Out out),
      out = at::index_add(*self, dimension, as_long(*index), *source, *alpha))
ACLNN(IndexCopy, (In self, int64_t dimension, In index, In source, Out out),
      out = at::index_copy(*self, dimension, as_long(*index), *source))
ACLNN(InplaceIndexCopy, (Out self, int64_t dimension, In index, In source),
      (*self).index_copy_(dimension, as_long(*index), *source))

// ---- results whose shape depends on the data ----
ACLNN(MaskedSelect, (In self, In mask, Out out), out.shrink_to(at::masked_select(*self, *mask)))
ACLNN(Nonzero, (In self, Out out), out.shrink_to(at::nonzero(*self)))
ACLNN(NonzeroV2, (In self, Out out), out.shrink_to(at::nonzero(*self).t().contiguous()))
ACLNN(Unique2, (In self, bool sorted, bool inverse, bool counts, Out values, Out inverse_out, Out counts_out),
      auto result = at::_unique2(*self, sorted, inverse, counts); values.shrink_to(std::get<0>(result));
      if (inverse) inverse_out = std::get<1>(result); if (counts) counts_out.shrink_to(std::get<2>(result)))

// ---- joining and splitting ----
ACLNN(Cat, (Ins tensors, int64_t dimension, Out out), out = at::cat(*tensors, dimension))
ACLNN(Stack, (Ins tensors, int64_t dimension, Out out), out = at::stack(*tensors, dimension))
ACLNN(SplitWithSize, (In self, Integers sizes, int64_t dimension, Outs out),
      out = at::split_with_sizes(*self, *sizes, dimension))

// ---- shapes ----
ACLNN(ConstantPadNd, (In self, Integers padding, Number value, Out out),
      out = at::constant_pad_nd(*self, *padding, *value))
ACLNN(ReflectionPad2d, (In self, Integers padding, Out out), out = at::reflection_pad2d(*self, *padding))
ACLNN(ReplicationPad2d, (In self, Integers padding, Out out), out = at::replication_pad2d(*self, *padding))
ACLNN(Roll, (In self, Integers shifts, Integers dimensions, Out out), out = at::roll(*self, *shifts, *dimensions))
ACLNN(Flip, (In self, Integers dimensions, Out out), out = at::flip(*self, *dimensions))
ACLNN(Repeat, (In self, Integers repeats, Out out), out = (*self).repeat(*repeats))
ACLNN(RepeatInterleaveIntWithDim, (In self, int64_t repeats, int64_t dimension, int64_t, Out out),
      out = at::repeat_interleave(*self, repeats, dimension))
ACLNN(RepeatInterleaveInt, (In self, int64_t repeats, int64_t, Out out), out = at::repeat_interleave(*self, repeats))
ACLNN(RepeatInterleaveWithDim, (In self, In repeats, int64_t dimension, int64_t size, Out out),
      out = at::repeat_interleave(*self, as_long(*repeats), dimension, size))
ACLNN(Tril, (In self, int64_t diagonal, Out out), out = at::tril(*self, diagonal))
ACLNN(Triu, (In self, int64_t diagonal, Out out), out = at::triu(*self, diagonal))
ACLNN(Permute, (In self, Integers dimensions, Out out), out = at::permute(*self, *dimensions))
