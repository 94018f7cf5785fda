// Convolutions, normalisations, pooling, resampling and embeddings, with their gradients.
#include "reference.h"

// ---- convolution ----
ACLNN(Convolution,
      (In input, In weight, In bias, Integers stride, Integers padding, Integers dilation, bool transposed,
       Integers output_padding, int64_t groups, Out out, int8_t),
      out = at::convolution(*input, *weight, bias, *stride, *padding, *dilation, transposed, *output_padding, groups))
ACLNN(ConvDepthwise2d,
      (In input, In weight, Integers kernel, In bias, Integers stride, Integers padding, Integers dilation, Out out, int8_t),
      out = at::convolution(*input, *weight, bias, *stride, *padding, *dilation, false, {0, 0}, (*input).size(1)))
ACLNN(ConvolutionBackward,
      (In gradient, In input, In weight, Integers bias_sizes, Integers stride, Integers padding, Integers dilation,
       bool transposed, Integers output_padding, int64_t groups, Flags wanted, int8_t, Out input_gradient,
       Out weight_gradient, Out bias_gradient),
      auto gradients = at::convolution_backward(*gradient, *input, *weight,
                                                bias_sizes.object ? at::OptionalIntArrayRef(*bias_sizes)
                                                                  : at::OptionalIntArrayRef(),
                                                *stride, *padding, *dilation, transposed, *output_padding, groups,
                                                {wanted[0], wanted[1], wanted[2]});
      if (wanted[0]) input_gradient = std::get<0>(gradients); if (wanted[1]) weight_gradient = std::get<1>(gradients);
      if (wanted[2]) bias_gradient = std::get<2>(gradients))

// ---- batch normalisation ----
ACLNN(BatchNorm,
      (In input, In weight, In bias, In running_mean, In running_variance, bool training, double momentum, double epsilon,
       Out out, Out mean, Out inverse_deviation),
      auto result = at::native_batch_norm(*input, weight, bias, running_mean, running_variance, training, momentum, epsilon);
      out = std::get<0>(result);
      if (training) { mean = std::get<1>(result); inverse_deviation = std::get<2>(result); })
ACLNN(BatchNormBackward,
      (In gradient, In input, In weight, In running_mean, In running_variance, In mean, In inverse_deviation, bool training,
       double epsilon, Flags wanted, Out input_gradient, Out weight_gradient, Out bias_gradient),
      const In none{};  // CANN reads the saved statistics in training only, and outside torch_npu gives them another dtype
      auto gradients = at::native_batch_norm_backward(*gradient, *input, weight, running_mean, running_variance,
                                                      training ? mean : none, training ? inverse_deviation : none, training,
                                                      epsilon, {wanted[0], wanted[1], wanted[2]});
      if (wanted[0]) input_gradient = std::get<0>(gradients); if (wanted[1]) weight_gradient = std::get<1>(gradients);
      if (wanted[2]) bias_gradient = std::get<2>(gradients))

// ---- layer and group normalisation ----
ACLNN(LayerNorm, (In input, Integers shape, In weight, In bias, double epsilon, Out out, Out mean, Out inverse_deviation),
      auto result = at::native_layer_norm(*input, *shape, weight, bias, epsilon);
      out = std::get<0>(result); mean = std::get<1>(result); inverse_deviation = std::get<2>(result))
ACLNN(LayerNormBackward,
      (In gradient, In input, Integers shape, In mean, In inverse_deviation, In weight, In bias, Flags wanted,
       Out input_gradient, Out weight_gradient, Out bias_gradient),
      auto gradients = at::native_layer_norm_backward(*gradient, *input, *shape, *mean, *inverse_deviation, weight, bias,
                                                      {wanted[0], wanted[1], wanted[2]});
      if (wanted[0]) input_gradient = std::get<0>(gradients); if (wanted[1]) weight_gradient = std::get<1>(gradients);
      if (wanted[2]) bias_gradient = std::get<2>(gradients))
ACLNN(AddLayerNorm,
      (In a, In b, In weight, In bias, In addend, double epsilon, bool, Out out, Out mean, Out inverse_deviation, Out total),
      Tensor sum = *a + *b; if (addend) sum = sum + *addend;
      auto result = at::native_layer_norm(sum, (*weight).sizes(), weight, bias, epsilon);
      out = std::get<0>(result); mean = std::get<1>(result); inverse_deviation = std::get<2>(result); total = sum)
ACLNN(AddLayerNormGrad,
      (In gradient, In a, In b, In inverse_deviation, In mean, In weight, In total_gradient, Out input_gradient,
       Out weight_gradient, Out bias_gradient),
      auto gradients = at::native_layer_norm_backward(*gradient, *a + *b, (*weight).sizes(), *mean, *inverse_deviation, weight,
                                                      weight, {true, true, true});
      input_gradient = total_gradient ? std::get<0>(gradients) + *total_gradient : std::get<0>(gradients);
      weight_gradient = std::get<1>(gradients); bias_gradient = std::get<2>(gradients))
ACLNN(GroupNorm,
      (In input, In weight, In bias, int64_t samples, int64_t channels, int64_t pixels, int64_t groups, double epsilon,
       Out out, Out mean, Out inverse_deviation),
      auto result = at::native_group_norm(*input, weight, bias, samples, channels, pixels, groups, epsilon);
      out = std::get<0>(result); mean = std::get<1>(result); inverse_deviation = std::get<2>(result))

ACLNN(GroupNormBackward,
      (In gradient, In input, In mean, In inverse_deviation, In weight, int64_t samples, int64_t channels, int64_t pixels,
       int64_t groups, Flags wanted, Out input_gradient, Out weight_gradient, Out bias_gradient),
      auto gradients = at::native_group_norm_backward(*gradient, *input, *mean, *inverse_deviation, weight, samples,
                                                      channels, pixels, groups, {wanted[0], wanted[1], wanted[2]});
      if (wanted[0]) input_gradient = std::get<0>(gradients); if (wanted[1]) weight_gradient = std::get<1>(gradients);
      if (wanted[2]) bias_gradient = std::get<2>(gradients))

// ---- pooling ----
ACLNN(AvgPool2d,
      (In self, Integers kernel, Integers stride, Integers padding, bool ceil, bool count_padding, int64_t divisor, int8_t,
       Out out),
      out = at::avg_pool2d(*self, *kernel, *stride, *padding, ceil, count_padding,
                           divisor ? c10::optional<int64_t>(divisor) : c10::nullopt))
ACLNN(AvgPool2dBackward,
      (In gradient, In self, Integers kernel, Integers stride, Integers padding, bool ceil, bool count_padding,
       int64_t divisor, int8_t, Out out),
      out = at::avg_pool2d_backward(*gradient, *self, *kernel, *stride, *padding, ceil, count_padding,
                                    divisor ? c10::optional<int64_t>(divisor) : c10::nullopt))
ACLNN(AdaptiveAvgPool2d, (In self, Integers size, Out out), out = at::_adaptive_avg_pool2d(*self, *size))
ACLNN(AdaptiveAvgPool2dBackward, (In gradient, In self, Out out), out = at::_adaptive_avg_pool2d_backward(*gradient, *self))
// An NPU keeps its own kind of mask instead of indices; what is kept here is the indices' low bytes, which only the
// gradient below reads, by computing the indices again.
ACLNN(MaxPool2dWithMask,
      (In self, Integers kernel, Integers stride, Integers padding, Integers dilation, bool ceil, Out out, Out mask),
      out = std::get<0>(at::max_pool2d_with_indices(*self, *kernel, *stride, *padding, *dilation, ceil));
      (*mask).zero_())
ACLNN(MaxPool2dWithMaskBackward,
      (In gradient, In self, In, Integers kernel, Integers stride, Integers padding, Integers dilation, bool ceil, Out out),
      auto indices = std::get<1>(at::max_pool2d_with_indices(*self, *kernel, *stride, *padding, *dilation, ceil));
      out = at::max_pool2d_with_indices_backward(*gradient, *self, *kernel, *stride, *padding, *dilation, ceil, indices))

// ---- resampling ----
// A scale is given beside the output size; torch_npu gives 1 or 0 where the caller gave none.
static c10::optional<double> scale_of(double scale, int64_t input, int64_t output) {
    return (int64_t)(input * scale) == output ? c10::optional<double>(scale) : c10::nullopt;
}
ACLNN(UpsampleBilinear2d, (In self, Integers size, bool align_corners, double scale_rows, double scale_columns, Out out),
      out = at::upsample_bilinear2d(*self, *size, align_corners, scale_of(scale_rows, (*self).size(2), (*size)[0]),
                                    scale_of(scale_columns, (*self).size(3), (*size)[1])))
#define BILINEAR_BACKWARD(NAME)                                                                                    \
    ACLNN(NAME,                                                                                                    \
          (In gradient, Integers output_size, Integers input_size, bool align_corners, double scale_rows,          \
           double scale_columns, Out out),                                                                         \
          out = at::upsample_bilinear2d_backward(*gradient, *output_size, *input_size, align_corners,              \
                                                 scale_of(scale_rows, (*input_size)[2], (*output_size)[0]),        \
                                                 scale_of(scale_columns, (*input_size)[3], (*output_size)[1])))
BILINEAR_BACKWARD(UpsampleBilinear2dBackward)
BILINEAR_BACKWARD(UpsampleBilinear2dBackwardV2)
ACLNN(UpsampleNearest2d, (In self, Integers size, Out out), out = at::upsample_nearest2d(*self, *size))
ACLNN(UpsampleNearest2dV2, (In self, Integers size, float scale_rows, float scale_columns, Out out),
      out = at::upsample_nearest2d(*self, *size, scale_of(scale_rows, (*self).size(2), (*size)[0]),
                                   scale_of(scale_columns, (*self).size(3), (*size)[1])))
ACLNN(UpsampleNearest2dBackward,
      (In gradient, Integers output_size, Integers input_size, double scale_rows, double scale_columns, Out out),
      out = at::upsample_nearest2d_backward(*gradient, *output_size, *input_size,
                                            scale_of(scale_rows, (*input_size)[2], (*output_size)[0]),
                                            scale_of(scale_columns, (*input_size)[3], (*output_size)[1])))
ACLNN(GridSampler2D, (In input, In grid, int64_t interpolation, int64_t padding, bool align_corners, Out out),
      out = at::grid_sampler_2d(*input, *grid, interpolation, padding, align_corners))
ACLNN(GridSampler2DBackward,
      (In gradient, In input, In grid, int64_t interpolation, int64_t padding, bool align_corners, Flags wanted,
       Out input_gradient, Out grid_gradient),
      auto gradients = at::grid_sampler_2d_backward(*gradient, *input, *grid, interpolation, padding, align_corners,
                                                    {wanted[0], wanted[1]});
      if (wanted[0]) input_gradient = std::get<0>(gradients); if (wanted[1]) grid_gradient = std::get<1>(gradients))
ACLNN(Im2col, (In self, Integers kernel, Integers dilation, Integers padding, Integers stride, Out out),
      out = at::im2col(*self, *kernel, *dilation, *padding, *stride))
ACLNN(Im2colBackward,
      (In self, Integers size, Integers kernel, Integers dilation, Integers padding, Integers stride, Out out),
      out = at::col2im(*self, *size, *kernel, *dilation, *padding, *stride))

// ---- embedding ----
ACLNN(Embedding, (In weight, In indices, Out out), out = at::embedding(*weight, *indices))
ACLNN(EmbeddingDenseBackward, (In gradient, In indices, uint64_t rows, uint64_t padding, bool by_frequency, Out out),
      out = at::embedding_dense_backward(*gradient, *indices, rows, padding, by_frequency))
