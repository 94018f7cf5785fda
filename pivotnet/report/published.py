"""Figures that others have published for the same network and schedule: 8 cards, batch 1 a card, 30 epochs, Swin-T.

They are for reference only: measured by their publishers, on their machines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Published:
    """One row of a published table."""

    name: str
    source: str
    preset: str
    cards: int
    step_seconds: Optional[float]  # None where it was not published
    map_hard: float  # percent
    map_easy: float

    @property
    def fps(self) -> Optional[float]:
        """Samples a second, at one sample a card."""
        return None if self.step_seconds is None else self.cards / self.step_seconds


_PORT = "Ascend DrivingSDK, model_examples/PivotNet"
_UPSTREAM = "wenjie710/PivotNet, README"
ROWS = (
    Published("competitor A", _PORT, "swint", 8, 0.58, 43.6, 61.6),
    Published("Atlas 800T A2", _PORT, "swint", 8, 0.89, 43.8, 61.9),
    Published("Atlas 800T A2, tcmalloc and LTO Python", _PORT, "swint", 8, 0.82, 43.8, 61.9),
    Published("upstream, Swin-T", _UPSTREAM, "swint", 8, None, 43.6, 61.6),
    Published("upstream, ResNet-50", _UPSTREAM, "res50", 8, None, 39.8, 57.1),
    Published("upstream, EfficientNet-B0", _UPSTREAM, "effb0", 8, None, 39.8, 57.8),
)
