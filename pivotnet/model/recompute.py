"""Memory for time: activations that the backward pass computes again instead of keeping them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def run(function: Callable[..., Any], recompute: bool, *arguments: Any) -> Any:
    """``function(*arguments)``; where ``recompute``, the backward pass calls it again instead of keeping activations.

    The function must draw no random numbers: their state is not restored.
    """
    if recompute and torch.is_grad_enabled():
        return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
    return function(*arguments)
