"""Attention cells that rounding decides.

The decoder lets a point query see a BEV cell when its instance's mask logit is not negative there. Of the millions of
logits of a forward pass a few lie within rounding of zero, and two right programmes may decide them differently; the
instance's points then move by more than rounding. A comparison with recorded outputs decides such a cell as the
recording did: it looks for the first layer and the instance that differ, and takes the logit nearest to zero there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch

from pivotnet.config import MapConfig
from pivotnet.model.pivotnet import PivotNet

MOST = 8  # cells that may be decided anew in one forward pass


class CloseCalls:
    """Cells to be decided the other way, found one by one.

    Args:
        closest: largest logit (absolute) that counts as rounding: the tolerance of mask logits.
    """

    def __init__(self, map_config: MapConfig, closest: float) -> None:
        self.closest = closest
        self.flipped: dict[tuple[int, int, int], float] = {}  # (layer, instance, cell): logit
        self.logits: list[torch.Tensor] = []  # of each layer, [B, Q, N]
        sizes = zip(map_config.num_queries, map_config.max_points)
        self.first_points = np.cumsum([0] + [points for queries, points in sizes for _ in range(queries)])[:-1]  # [Q]

    @contextlib.contextmanager
    def decide(self, network: PivotNet) -> Iterator[None]:
        """Run the network's decoder with the decisions found so far."""
        decoder: Any = network.line_decoder
        usual = decoder.masked
        self.logits = []

        def masked(logits: torch.Tensor) -> torch.Tensor:
            hidden = usual(logits)
            for layer, instance, cell in self.flipped:
                if layer == len(self.logits):
                    hidden[:, instance, cell] = ~hidden[:, instance, cell]
            self.logits.append(logits)
            return hidden

        with mock.patch.object(decoder, "masked", masked):
            yield

    def reconsider(self, difference: np.ndarray, tolerance: float) -> bool:
        """Whether one more cell is to be decided otherwise, given the difference of all layers' points [D, B, T, 2]."""
        worst = np.abs(difference).max(axis=(1, 3))  # [D, T]
        layers = np.flatnonzero(worst.max(axis=1) > tolerance)
        if not len(layers) or len(self.flipped) >= MOST:
            return False
        layer = int(layers[0])
        instance = int(np.maximum.reduceat(worst[layer], self.first_points).argmax())
        size = self.logits[layer][0, instance].abs()
        cell = int(size.argmin())
        if float(size[cell]) > self.closest or (layer, instance) in {key[:2] for key in self.flipped}:
            return False  # no close call, or deciding it otherwise has not helped
        self.flipped[layer, instance, cell] = float(size[cell])
        return True
