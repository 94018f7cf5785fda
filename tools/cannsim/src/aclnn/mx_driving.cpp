// Operators of mx_driving: multi-scale deformable attention (Zhu et al. 2021, Deformable DETR, equation 3) and its
// gradient, written over grid_sample as a plain implementation would be.
#include "reference.h"

namespace {

// Samples each level bilinearly, zero outside, pixel centres at half-integers:
// value [B, S, H, C], shapes [L, 2], locations [B, Q, H, L, P, 2] in [0, 1] (x, y)  ->  L of [B*H, C, Q, P]
std::vector<Tensor> sample_grids(const Tensor &locations) {
    std::vector<Tensor> grids;
    for (int64_t level = 0; level < locations.size(3); level++)
        grids.push_back((locations.select(3, level) * 2 - 1).transpose(1, 2).flatten(0, 1).contiguous());
    return grids;
}

std::vector<Tensor> level_maps(const Tensor &value, const Tensor &shapes) {
    const int64_t batch = value.size(0), heads = value.size(2), channels = value.size(3);
    std::vector<Tensor> maps;
    int64_t start = 0;
    for (int64_t level = 0; level < shapes.size(0); level++) {
        const int64_t rows = shapes[level][0].item<int64_t>(), columns = shapes[level][1].item<int64_t>();
        const Tensor part = value.narrow(1, start, rows * columns);
        maps.push_back(part.permute({0, 2, 3, 1}).reshape({batch * heads, channels, rows, columns}).contiguous());
        start += rows * columns;
    }
    TORCH_CHECK(start == value.size(1), "spatial shapes cover ", start, " cells, value has ", value.size(1));
    return maps;
}

const int64_t BILINEAR = 0, ZEROS = 0;

}  // namespace

ACLNN(MultiScaleDeformableAttn, (In value, In shapes, In, In locations, In weights, Out out), Tensor loc = *locations;
      const int64_t batch = loc.size(0), queries = loc.size(1), heads = loc.size(2), levels = loc.size(3);
      const int64_t points = loc.size(4), channels = (*value).size(3); auto maps = level_maps(*value, *shapes);
      auto grids = sample_grids(loc);
      // [B*H, 1, Q, L, P]
      Tensor w = (*weights).transpose(1, 2).reshape({batch * heads, 1, queries, levels, points});
      Tensor sum = at::zeros({batch * heads, channels, queries}, loc.options());
      for (int64_t level = 0; level < levels; level++) {
          Tensor sampled = at::grid_sampler_2d(maps[level], grids[level], BILINEAR, ZEROS, false);
          sum += (sampled * w.select(3, level)).sum(-1);
      }
      out = sum.view({batch, heads, channels, queries}).permute({0, 3, 1, 2}).reshape((*out).sizes()))

ACLNN(MultiScaleDeformableAttnGrad,
      (In value, In shapes, In, In locations, In weights, In gradient, Out value_gradient, Out location_gradient,
       Out weight_gradient),
      Tensor loc = *locations;
      const int64_t batch = loc.size(0), queries = loc.size(1), heads = loc.size(2), levels = loc.size(3);
      const int64_t points = loc.size(4), channels = (*value).size(3); auto maps = level_maps(*value, *shapes);
      auto grids = sample_grids(loc);
      Tensor w = (*weights).transpose(1, 2).reshape({batch * heads, 1, queries, levels, points});
      // [B*H, C, Q, 1]
      Tensor outer = (*gradient).reshape({batch, queries, heads, channels}).permute({0, 2, 3, 1});
      outer = outer.reshape({batch * heads, channels, queries, 1}); Tensor values = *value_gradient;
      int64_t start = 0;
      for (int64_t level = 0; level < levels; level++) {
          Tensor sampled = at::grid_sampler_2d(maps[level], grids[level], BILINEAR, ZEROS, false);
          Tensor to_weight = (sampled * outer).sum(1).view({batch, heads, queries, points}).transpose(1, 2);
          (*weight_gradient).select(3, level).copy_(to_weight);
          Tensor inner = (outer * w.select(3, level)).contiguous();
          auto gradients = at::grid_sampler_2d_backward(inner, maps[level], grids[level], BILINEAR, ZEROS, false, {true, true});
          const int64_t cells = maps[level].size(2) * maps[level].size(3);
          Tensor to_value = std::get<0>(gradients).view({batch, heads, channels, cells}).permute({0, 3, 1, 2});
          values.narrow(1, start, cells).copy_(to_value.reshape(values.narrow(1, start, cells).sizes()));
          Tensor to_grid = std::get<1>(gradients).view({batch, heads, queries, points, 2}).transpose(1, 2);
          (*location_gradient).select(3, level).copy_(to_grid * 2);
          start += cells;
      })
