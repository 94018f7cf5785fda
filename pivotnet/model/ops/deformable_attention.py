"""Multi-scale deformable attention (Zhu et al., Deformable DETR, arXiv:2010.04159, equation 3). Every query samples
each level of a feature map bilinearly at a few points and adds the samples up with its own weights. On an NPU
mx_driving's kernel does it, on a CPU deformable_attention_cpu.py, on a GPU deformable_attention_triton.py, or
grid_sample where Triton does not work."""

import warnings
from functools import cache, lru_cache
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pivotnet.model.ops import deformable_attention_cpu

Shapes = tuple[tuple[int, int], ...]


def multi_scale_deformable_attention(
    value: Tensor, spatial_shapes: Shapes, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Weighted sum of bilinear samples, [B, L, heads * c]; all tensors are float32.

    Args:
        value: [B, S, heads, c] features of all levels, one level's rows after the other; S is the sum of h * w.
        spatial_shapes: (h, w) of each level.
        sampling_locations: [B, L, heads, levels, points, 2] as (x, y); (0, 0) is the upper left corner of the first
            cell, (1, 1) the lower right corner of the last. Outside the map features are zero.
        attention_weights: [B, L, heads, levels, points]."""
    if value.device.type == "npu":
        import mx_driving  # imported late: importing it re-routes torch.cuda

        shapes, starts = _level_tensors(spatial_shapes, value.device)
        return mx_driving.multi_scale_deformable_attn(value, shapes, starts, sampling_locations, attention_weights)
    if value.device.type == "cpu" or value.device.type == "cuda" and _triton_works():
        return _Attention.apply(value, spatial_shapes, sampling_locations, attention_weights)
    return sample_levels(value, spatial_shapes, sampling_locations, attention_weights)


class _Attention(torch.autograd.Function):
    """Keeps its inputs only."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(value, locations, weights)
        ctx.sizes = [length for shape in shapes for length in shape]
        return torch.ops.pivotnet.deformable_attention(value, ctx.sizes, locations, weights)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:  # type: ignore[override]
        grads = torch.ops.pivotnet.deformable_attention_backward(gradient, *ctx.saved_tensors, ctx.sizes)
        return grads[0], None, grads[1], grads[2]


# Registered as operators, they count as one launch each, as the kernels of other devices do.
_library = torch.library.Library("pivotnet", "DEF")
_library.define("deformable_attention(Tensor value, int[] sizes, Tensor locations, Tensor weights) -> Tensor")
_library.define(
    "deformable_attention_backward(Tensor gradient, Tensor value, Tensor locations, Tensor weights, int[] sizes)"
    " -> (Tensor, Tensor, Tensor)"
)


def _register(kernels: ModuleType, key: str) -> None:
    _library.impl("deformable_attention", kernels.forward, key)
    _library.impl("deformable_attention_backward", kernels.backward, key)


_register(deformable_attention_cpu, "CPU")


@cache
def _triton_works() -> bool:
    """Whether Triton is installed and compiles for the current GPU; a small call tests it. Kernels are compiled at
    their first call, which needs a C compiler and Python's headers."""
    try:
        from pivotnet.model.ops import deformable_attention_triton

        zeros = torch.zeros(1, 1, 1, 1, 1, 2, device="cuda")
        deformable_attention_triton.forward(zeros[0, 0], [1, 1], zeros, zeros[..., 0])
    except Exception as error:  # of import, compiler, driver
        reason = " ".join(str(error).split())
        warnings.warn(
            f"deformable attention uses grid_sample, which is slower: Triton does not work ({reason})", stacklevel=2
        )
        return False
    _register(deformable_attention_triton, "CUDA")
    return True


@lru_cache(maxsize=32)
def _level_tensors(spatial_shapes: Shapes, device: torch.device) -> tuple[Tensor, Tensor]:
    """The kernel's int32 description of the levels: sizes [levels, 2] and first rows [levels]."""
    shapes = torch.tensor(spatial_shapes, dtype=torch.int32)
    areas = shapes.prod(1, dtype=torch.int32)
    return shapes.to(device), (areas.cumsum(0, dtype=torch.int32) - areas).to(device)


def sample_levels(value: Tensor, spatial_shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """The same in plain PyTorch, level by level by grid_sample."""
    batch, _, heads, channels = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    grid = locations.mul(2).sub(1).permute(0, 2, 3, 1, 4, 5)  # [B, heads, levels, L, points, 2] in [-1, 1]
    weights = weights.permute(0, 2, 3, 1, 4)  # [B, heads, levels, L, points]
    total = None
    sizes = [height * width for height, width in spatial_shapes]
    for level, (features, (height, width)) in enumerate(zip(value.split(sizes, dim=1), spatial_shapes)):
        image = features.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        level_grid = grid[:, :, level].reshape(batch * heads, queries, points, 2)
        samples = F.grid_sample(image, level_grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        level_weights = weights[:, :, level].reshape(batch * heads, 1, queries, points)
        level_sum = (samples * level_weights).sum(-1)  # [B * heads, c, L]
        total = level_sum if total is None else total + level_sum
    assert total is not None
    return total.view(batch, heads * channels, queries).transpose(1, 2)
