"""A residual connection and the layer norm after it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from pivotnet.model.layers import add_branch


def add_layer_norm(
    norm: nn.LayerNorm, shortcut: Tensor, branch: Tensor, scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """norm(shortcut + scale * branch), and that sum; shapes and ``scale`` are those of ``add_branch``."""
    if shortcut.device.type == "npu" and shortcut.dtype == torch.float32:
        return _AddLayerNorm.apply(shortcut, branch, scale, norm.weight, norm.bias, norm.eps)
    total = add_branch(shortcut, branch, scale)
    return norm(total), total


class _AddLayerNorm(torch.autograd.Function):
    """CANN's kernel, which also adds up the gradients of the two results; the branch may be bfloat16. It differentiates
    the norm of two tensors: here of their sum, which Swin's next block keeps anyway, and of zeros."""

    @staticmethod
    def forward(
        ctx: Any, shortcut: Tensor, branch: Tensor, scale: Tensor | None, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        ctx.dtype = branch.dtype
        branch = branch if scale is None else branch * scale
        normed, mean, rstd, total = torch.ops.npu.npu_add_layer_norm(shortcut, branch, weight, bias, eps, True)
        ctx.save_for_backward(total, rstd, mean, weight, scale)
        ctx.set_materialize_grads(False)
        return normed, total

    @staticmethod
    def backward(ctx: Any, of_normed: Tensor | None, of_total: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        total, rstd, mean, weight, scale = ctx.saved_tensors
        of_sum, of_weight, of_bias = of_total, None, None
        if of_normed is not None:
            zeros = _zeros(total.shape, total.device)
            of_total = zeros if of_total is None else of_total  # torch_npu would make zeros each time
            of_sum, _, of_weight, of_bias = torch.ops.npu.npu_add_layer_norm_backward(
                of_normed, total, zeros, rstd, mean, weight, of_total
            )
        if of_sum is None:
            return (None,) * 6
        if scale is None:
            of_branch = of_sum.to(ctx.dtype)
        else:
            of_branch = torch.mul(of_sum, scale, out=torch.empty_like(of_sum, dtype=ctx.dtype))
        return of_sum, of_branch, None, of_weight, of_bias, None


@lru_cache(maxsize=16)
def _zeros(shape: torch.Size, device: torch.device) -> Tensor:
    """Shared by all calls: must not be written to."""
    return torch.zeros(shape, device=device)
