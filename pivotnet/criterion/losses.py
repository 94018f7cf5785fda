"""Parts of the losses that are not about masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def instance_scale(counts: Tensor) -> Tensor:
    """1 / max(1, mean number of instances a sample) of each class, over the samples of all ranks.

    Args:
        counts: int [B, C].

    Returns:
        float32 [C] on the device of ``counts``; one all-reduce, and nothing is read on the host.
    """
    mean = counts.float().mean(0)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(mean)
        mean = mean / torch.distributed.get_world_size()
    return mean.clamp(min=1).reciprocal()


def binary_cross_entropy(margins: Tensor, sides: Tensor) -> Tensor:
    """Cross entropy of two classes, elementwise.

    Args:
        margins: logit of the first class minus logit of the second.
        sides: -1 where the first class is right, +1 where the second is.
    """
    return F.softplus(sides * margins)
