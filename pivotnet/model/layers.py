"""Layers that several parts of the network share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def run(function: Callable[..., Any], recompute: bool, *arguments: Any) -> Any:
    """``function(*arguments)``; where ``recompute``, the backward pass calls it again instead of keeping activations.
    The function must draw no random numbers: their state is not restored."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
    return function(*arguments)


class Mlp(nn.Module):
    """Linear layers with ReLU between them, named as in upstream's checkpoints (layers.0, layers.1, ...)."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(narrow, wide) for narrow, wide in zip(widths, widths[1:]))

    def layer(self, number: int) -> nn.Linear:
        return cast(nn.Linear, self.layers[number])

    def forward(self, x: Tensor) -> Tensor:
        """[..., widths[0]] -> [..., widths[-1]]."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class StochasticDepth(nn.Module):
    """Stochastic depth (Huang et al., 2016; "drop path" in Swin, "drop connect" in EfficientNet): residual branches of
    single images are left out at random, the others are scaled up so that the expectation stays the same. ``rates`` are
    the probabilities to leave a branch out, one a branch, in the order of use. Draws the scales of all branches of a
    forward pass at once: one launch instead of several a branch. On the CPU the random stream is read as if the
    branches drew one after another; a branch of rate 0 draws nothing."""

    keep: Tensor

    def __init__(self, rates: Sequence[float]) -> None:
        super().__init__()
        self.rates = tuple(rates)
        keep = [1 - rate for rate in self.rates if rate]
        self.register_buffer("keep", torch.tensor(keep).view(-1, 1), persistent=False)  # [branches, 1]

    def forward(self, batch: int) -> list[Tensor | None]:
        """Scales of each branch, [batch, 1, 1, 1] of 0 or 1/(1 - rate); None (scale 1) if not training or at rate 0."""
        if not self.training or not self.keep.numel():
            return [None] * len(self.rates)
        draw = torch.rand(self.keep.shape[0], batch, dtype=self.keep.dtype, device=self.keep.device)
        scales = iter((draw + self.keep).floor().div(self.keep).view(-1, batch, 1, 1, 1).unbind())
        return [next(scales) if rate else None for rate in self.rates]


def add_branch(shortcut: Tensor, branch: Tensor, scale: Tensor | None) -> Tensor:
    """shortcut + scale * branch, in one launch each way: ``branch`` has any shape; ``shortcut`` and ``scale``, which is
    a constant (None for 1), broadcast to it."""
    return shortcut + branch if scale is None else _AddScaled.apply(shortcut, branch, scale)


class _AddScaled(torch.autograd.Function):
    """torch.addcmul without what its backward pass does for factors that learn."""

    @staticmethod
    def forward(ctx: Any, shortcut: Tensor, branch: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        ctx.shape = shortcut.shape
        return torch.addcmul(shortcut, branch, scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:  # type: ignore[override]
        shortcut = gradient.sum_to_size(ctx.shape) if ctx.needs_input_grad[0] else None
        return shortcut, gradient * ctx.saved_tensors[0], None


def copies(x: Tensor, count: int) -> list[Tensor]:
    """``count`` views of ``x`` of any shape, one for each use: their gradients are summed at once, not one by one."""
    return list(x.expand(count, *x.shape).unbind())
