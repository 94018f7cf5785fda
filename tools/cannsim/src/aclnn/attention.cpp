// Fused attention (FlashAttention), as torch_npu calls it for scaled_dot_product_attention and npu_fusion_attention.
#include "reference.h"

#include <string>

namespace {

// Tensors of layout BNSD [batch, heads, length, channels], whatever the caller's layout was.
struct Layout {
    std::string name;
    int64_t heads;

    Tensor enter(const Tensor &tensor) const {
        if (name == "BNSD") return tensor;
        if (name == "BSND") return tensor.transpose(1, 2);
        TORCH_CHECK(name == "BSH" || name == "SBH", "attention layout ", name, " is not simulated");
        const Tensor batch_first = name == "BSH" ? tensor : tensor.transpose(0, 1);
        return batch_first.unflatten(2, {heads, -1}).transpose(1, 2);
    }
    Tensor leave(const Tensor &tensor) const {
        if (name == "BNSD") return tensor;
        if (name == "BSND") return tensor.transpose(1, 2);
        const Tensor joined = tensor.transpose(1, 2).flatten(2);
        return name == "BSH" ? joined : joined.transpose(0, 1);
    }
};

struct Attention {
    Tensor probabilities;  // after softmax, before dropout
    Tensor kept;           // after dropout
    Tensor maximum, sum;   // [batch, heads, length, 1]: of the softmax
};

// mask: true where a key must not be seen (the inverse of torch's)
Attention attend(const Tensor &query, const Tensor &key, In bias, In drop_mask, In mask, double scale, double keep) {
    Tensor scores = at::matmul(query, key.transpose(-2, -1)) * scale;
    if (bias) scores = scores + *bias;
    if (mask) {
        Tensor hidden = *mask;
        if (hidden.size(-2) > scores.size(-2) || hidden.size(-1) > scores.size(-1))  // a causal mask comes as 2048 x 2048
            hidden = hidden.narrow(-2, 0, scores.size(-2)).narrow(-1, 0, scores.size(-1));
        scores = scores.masked_fill(hidden.to(at::kBool), -std::numeric_limits<double>::infinity());
    }
    Attention result;
    result.maximum = scores.amax({-1}, true);
    Tensor exponentials = at::exp(scores - result.maximum);
    result.sum = exponentials.sum(-1, true);
    result.probabilities = exponentials / result.sum;
    result.kept = result.probabilities;
    if (drop_mask) {
        Tensor bits = cannsim::unpack_bits(*drop_mask, scores.numel()).view(scores.sizes());
        result.kept = at::where(bits, result.probabilities / keep, at::zeros({}, scores.options()));
    }
    return result;
}

}  // namespace

ACLNN_TEXT(FlashAttentionScore,
      (In query, In key, In value, In bias, In drop_mask, In, In mask, Integers, double scale, double keep, int64_t,
       int64_t, int64_t heads, const char *name_text, int64_t, int64_t, Out softmax_maximum, Out softmax_sum, Out,
       Out out),
      name, Layout layout{name, heads}; Tensor q = layout.enter(*query).to(at::kFloat);
      Tensor k = layout.enter(*key).to(at::kFloat); Tensor v = layout.enter(*value).to(at::kFloat);
      Attention result = attend(q, k, bias, drop_mask, mask, scale, keep);
      out = layout.leave(at::matmul(result.kept, v));
      softmax_maximum = result.maximum.expand_as(*softmax_maximum); softmax_sum = result.sum.expand_as(*softmax_sum))

ACLNN_TEXT(FlashAttentionScoreGrad,
      (In query, In key, In value, In gradient, In bias, In drop_mask, In, In mask, In, In, In, In, Integers, double scale,
       double keep, int64_t, int64_t, int64_t heads, const char *name_text, int64_t, int64_t, Out query_gradient,
       Out key_gradient, Out value_gradient, Out bias_gradient),
      name, Layout layout{name, heads}; Tensor q = layout.enter(*query).to(at::kFloat);
      Tensor k = layout.enter(*key).to(at::kFloat); Tensor v = layout.enter(*value).to(at::kFloat);
      Tensor outer = layout.enter(*gradient).to(at::kFloat);
      Attention result = attend(q, k, bias, drop_mask, mask, scale, keep);
      value_gradient = layout.leave(at::matmul(result.kept.transpose(-2, -1), outer));
      Tensor to_kept = at::matmul(outer, v.transpose(-2, -1));
      // through dropout and softmax: P (g - sum(g P)), where g P is the same before and after dropout's scaling
      Tensor weighted = to_kept * result.kept;
      Tensor to_scores = weighted - result.probabilities * weighted.sum(-1, true);
      query_gradient = layout.leave(at::matmul(to_scores, k) * scale);
      key_gradient = layout.leave(at::matmul(to_scores.transpose(-2, -1), q) * scale);
      if (bias) bias_gradient = at::sum_to(to_scores, (*bias_gradient).sizes()))
