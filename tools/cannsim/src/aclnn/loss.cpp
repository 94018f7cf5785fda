// Softmax and losses, with their gradients.
#include "reference.h"

// ---- softmax ----
ACLNN(Softmax, (In self, int64_t dimension, Out out), out = at::_softmax(*self, dimension, false))
ACLNN(SoftmaxBackward, (In gradient, In result, int64_t dimension, Out out),
      out = at::_softmax_backward_data(*gradient, *result, dimension, (*result).scalar_type()))
ACLNN(LogSoftmax, (In self, int64_t dimension, Out out), out = at::_log_softmax(*self, dimension, false))
ACLNN(LogSoftmaxBackward, (In gradient, In result, int64_t dimension, Out out),
      out = at::_log_softmax_backward_data(*gradient, *result, dimension, (*result).scalar_type()))

// ---- negative log likelihood (cross entropy after log softmax) ----
ACLNN(NLLLoss, (In self, In target, In weight, int64_t reduction, int64_t ignored, Out out, Out total_weight),
      auto result = at::nll_loss_forward(*self, (*target).to(at::kLong), weight, reduction, ignored);
      out = std::get<0>(result); total_weight = std::get<1>(result))
ACLNN(NLLLossBackward,
      (In gradient, In self, In target, In weight, int64_t reduction, int64_t ignored, In total_weight, Out out),
      Tensor outer = reduction ? (*gradient).reshape({}) : *gradient;
      out = at::nll_loss_backward(outer, *self, (*target).to(at::kLong), weight, reduction, ignored,
                                  (*total_weight).reshape({})))
ACLNN(NLLLoss2d, (In self, In target, In weight, int64_t reduction, int64_t ignored, Out out, Out total_weight),
      auto result = at::nll_loss2d_forward(*self, (*target).to(at::kLong), weight, reduction, ignored);
      out = std::get<0>(result); total_weight = std::get<1>(result))
ACLNN(NLLLoss2dBackward,
      (In gradient, In self, In target, In weight, int64_t reduction, int64_t ignored, In total_weight, Out out),
      Tensor outer = reduction ? (*gradient).reshape({}) : *gradient;
      out = at::nll_loss2d_backward(outer, *self, (*target).to(at::kLong), weight, reduction, ignored,
                                    (*total_weight).reshape({})))

// ---- binary cross entropy ----
ACLNN(BinaryCrossEntropy, (In self, In target, In weight, int64_t reduction, Out out),
      out = at::binary_cross_entropy(*self, *target, weight, reduction))
ACLNN(BinaryCrossEntropyBackward, (In gradient, In self, In target, In weight, int64_t reduction, Out out),
      out = at::binary_cross_entropy_backward(*gradient, *self, *target, weight, reduction))
ACLNN(BinaryCrossEntropyWithLogits, (In self, In target, In weight, In positive_weight, int64_t reduction, Out out),
      out = at::binary_cross_entropy_with_logits(*self, *target, weight, positive_weight, reduction))
// d/dx of  -(p t log s(x) + (1 - t) log(1 - s(x)))  is  s(x) (p t + 1 - t) - p t
ACLNN(BinaryCrossEntropyWithLogitsBackward,
      (In gradient, In self, In target, In weight, In positive_weight, int64_t reduction, Out out),
      Tensor t = *target; Tensor positive = positive_weight ? t * *positive_weight : t;
      Tensor slope = at::sigmoid(*self) * (positive + 1 - t) - positive; if (weight) slope = slope * *weight;
      if (reduction == at::Reduction::Mean) slope = slope / (*self).numel(); out = slope * *gradient)

// ---- distances ----
ACLNN(L1Loss, (In self, In target, int64_t reduction, Out out), out = at::l1_loss(*self, *target, reduction))
ACLNN(L1LossBackward, (In gradient, In self, In target, int64_t reduction, Out out),
      Tensor slope = at::sign(*self - *target) * *gradient;
      out = reduction == at::Reduction::Mean ? slope / (*self).numel() : slope)
ACLNN(MseLoss, (In self, In target, int64_t reduction, Out out), out = at::mse_loss(*self, *target, reduction))
ACLNN(MseLossBackward, (In gradient, In self, In target, int64_t reduction, Out out),
      out = at::mse_loss_backward(*gradient, *self, *target, reduction))
ACLNN(SmoothL1Loss, (In self, In target, int64_t reduction, float beta, Out out),
      out = at::smooth_l1_loss(*self, *target, reduction, beta))
ACLNN(SmoothL1LossBackward, (In gradient, In self, In target, int64_t reduction, float beta, Out out),
      out = at::smooth_l1_loss_backward(*gradient, *self, *target, reduction, beta))
ACLNN(KlDiv, (In self, In target, int64_t reduction, bool log_target, Out out),
      out = at::kl_div(*self, *target, reduction, log_target))
