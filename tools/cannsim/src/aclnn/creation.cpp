// Operators that fill tensors: with constants, ranges and random numbers.
#include "reference.h"

#include <ATen/CPUGeneratorImpl.h>

// ---- constants and ranges ----
ACLNN(InplaceZero, (Out self), (*self).zero_())
ACLNN(InplaceOne, (Out self), (*self).fill_(1))
ACLNN(InplaceFillScalar, (Out self, Number value), (*self).fill_(*value))
ACLNN(InplaceFillTensor, (Out self, In value), (*self).copy_((*value).reshape({})))
ACLNN(InplaceFillDiagonal, (Out self, Number value, bool wrap), (*self).fill_diagonal_(*value, wrap))
ACLNN(Arange, (Number start, Number end, Number step, Out out), out = at::arange(*start, *end, *step, (*out).options()))
ACLNN(Linspace, (Number start, Number end, int64_t steps, Out out),
      out = at::linspace(*start, *end, steps, (*out).options()))
ACLNN(Eye, (int64_t rows, int64_t columns, Out out), out = at::eye(rows, columns, (*out).options()))

ACLNN(OneHot, (In self, int, In on, In off, int64_t axis, Out out), Tensor result = (*off).expand_as(*out).clone();
      Tensor index = (*self).to(at::kLong); axis = axis < 0 ? axis + result.dim() : axis;
      result.scatter_(axis, index.unsqueeze(axis), (*on).expand_as(index.unsqueeze(axis)).to(result.scalar_type()));
      out = result)

// ---- random numbers: torch_npu hands over seed and offset of its generator, so that a draw can be repeated. The numbers
// are not those of an NPU, nor those of torch's own CPU generator. ----
static at::Generator generator(uint64_t seed, uint64_t offset) {
    return at::detail::createCPUGenerator(seed * 0x9E3779B97F4A7C15ull ^ (offset + 0x632BE59BD9B4E019ull));
}
// In a captured graph they are tensors, which every replay fills anew, and `offset` counts on from there.
static at::Generator generator(In seed, In start, uint64_t offset) {
    return generator((*seed).item<int64_t>(), (*start).item<int64_t>() + offset);
}

ACLNN(InplaceNormal, (Out self, float mean, float deviation, int64_t seed, int64_t offset),
      self = at::empty((*self).sizes(), at::kFloat).normal_(mean, deviation, generator(seed, offset)))
ACLNN(NormalFloatFloat, (float mean, float deviation, int64_t seed, int64_t offset, Out out),
      out = at::empty((*out).sizes(), at::kFloat).normal_(mean, deviation, generator(seed, offset)))
ACLNN(InplaceUniform, (Out self, double low, double high, uint64_t seed, uint64_t offset),
      self = at::empty((*self).sizes(), at::kFloat).uniform_(low, high, generator(seed, offset)))
ACLNN(InplaceUniformTensor, (Out self, double low, double high, In seed, In start, uint64_t offset),
      self = at::empty((*self).sizes(), at::kFloat).uniform_(low, high, generator(seed, start, offset)))
ACLNN(InplaceRandom, (Out self, int64_t low, int64_t high, uint64_t seed, uint64_t offset),
      (*self).random_(low, high, generator(seed, offset)))
ACLNN(InplaceBernoulli, (Out self, Number probability, int64_t seed, int64_t offset),
      (*self).bernoulli_((*probability).toDouble(), generator(seed, offset)))
ACLNN(InplaceBernoulliTensor, (Out self, In probability, int64_t seed, int64_t offset),
      (*self).bernoulli_(*probability, generator(seed, offset)))
ACLNN(Randperm, (int64_t count, int64_t seed, int64_t offset, Out out),
      out = at::randperm(count, generator(seed, offset), at::TensorOptions(at::kLong)))

// Dropout is two operators: one draws a bit for each element, eight to a byte; the other applies it.
static void draw_bits(Tensor bytes, double drop, at::Generator generator) {
    Tensor keep = at::empty({bytes.numel() * 8}, at::kFloat).uniform_(0, 1, generator).ge(drop);
    Tensor weights = at::pow(2, at::arange(8, at::kInt)).to(at::kByte);
    bytes.copy_(keep.view({-1, 8}).to(at::kByte).mul(weights).sum(-1, false, at::kByte));
}
ACLNN(DropoutGenMaskV2, (Integers shape, double drop, int64_t seed, int64_t offset, int, Out mask),
      draw_bits(*mask, drop, generator(seed, offset)))
ACLNN(DropoutGenMaskV2Tensor, (Integers shape, double drop, In seed, In start, int64_t offset, int, Out mask),
      draw_bits(*mask, drop, generator(seed, start, offset)))
ACLNN(DropoutDoMask, (In self, In mask, double drop, Out out), Tensor values = *self;
      Tensor bits = cannsim::unpack_bits(*mask, values.numel()).view(values.sizes());
      out = at::where(bits, values * (1 / (1 - drop)), at::zeros({}, values.options())))
