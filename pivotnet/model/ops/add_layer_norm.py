"""A residual connection and the layer norm behind it."""

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
        branch = branch if scale is None else branch * scale
        return _AddLayerNorm.apply(shortcut, branch.float(), norm.weight, norm.bias, norm.eps)
    total = add_branch(shortcut, branch, scale)
    return norm(total), total


class _AddLayerNorm(torch.autograd.Function):
    """CANN's kernel, which also adds up the gradients of the two results."""

    @staticmethod
    def forward(
        ctx: Any, shortcut: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        normed, mean, rstd, total = torch.ops.npu.npu_add_layer_norm(shortcut, branch, weight, bias, eps, True)
        ctx.save_for_backward(shortcut, branch, rstd, mean, weight)
        ctx.set_materialize_grads(False)
        return normed, total

    @staticmethod
    def backward(ctx: Any, of_normed: Tensor | None, of_total: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if of_normed is None:
            return of_total, of_total, None, None, None
        if of_total is None:  # torch_npu would make zeros each time
            of_total = _zeros(of_normed.shape, of_normed.device)
        of_sum, _, of_weight, of_bias = torch.ops.npu.npu_add_layer_norm_backward(
            of_normed, *ctx.saved_tensors, of_total
        )
        return of_sum, of_sum, of_weight, of_bias, None


@lru_cache(maxsize=16)
def _zeros(shape: torch.Size, device: torch.device) -> Tensor:
    """Nobody writes into it."""
    return torch.zeros(shape, device=device)
