"""The polylines of a sample. Without torch, so that processes that only read results start at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class MapInstances:
    """The predicted polylines of one sample, class after class; n instances."""

    points: list[np.ndarray]  # n times float32 [p, 2] (row, column), pixels of the map, not rounded
    scores: np.ndarray  # float32 [n] probability of "object"
    labels: np.ndarray  # int64 [n] index into config.CLASSES

    def __len__(self) -> int:
        return len(self.points)
