"""The little that upstream calls from packages which it need not have."""

from __future__ import annotations

from typing import Any

import torch


class mmcv:  # noqa: N801 - stands where the package of that name stood
    """What upstream's transforms call from mmcv."""

    @staticmethod
    def is_str(value: Any) -> bool:
        """Whether it is a string."""
        return isinstance(value, str)


class torchvision:  # noqa: N801
    """What upstream's utilities call from torchvision."""

    @staticmethod
    def _is_tracing() -> bool:
        return torch.jit.is_tracing()
