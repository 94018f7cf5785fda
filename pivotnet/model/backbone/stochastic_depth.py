"""Stochastic depth (Huang et al., 2016; "drop path" in Swin, "drop connect" in EfficientNet): whole residual branches
of single images are left out at random, the others are scaled up so that the expectation stays the same."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Draws the scales of all branches of a forward pass at once: one launch instead of several a branch.

    A branch of rate 0 draws nothing. On the CPU the random stream is read as if the branches drew one after another.
    """

    keep: Tensor

    def __init__(self, rates: Sequence[float]) -> None:
        """``rates``: probability to leave a branch out, one a branch, in the order of use."""
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
    """shortcut + scale * branch, [B, ., ., .], in one launch."""
    return shortcut + branch if scale is None else torch.addcmul(shortcut, branch, scale)
