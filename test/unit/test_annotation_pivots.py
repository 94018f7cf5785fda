"""Simplification of lines, side by side with the package that upstream uses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from visvalingamwyatt import Simplifier

from pivotnet.annotation.pivots import AREA_THRESHOLD, simplify


def line(seed: int) -> np.ndarray:
    """A random walk; every other one on a grid, where many triangles are equal or have no area."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 70))
    if seed % 2:
        return np.cumsum(rng.integers(-1, 3, (count, 2)), 0).astype(float)
    angle = np.cumsum(rng.normal(0, 0.3, count))
    return np.cumsum(np.stack([np.cos(angle), np.sin(angle)], 1), 0)


@pytest.mark.parametrize("threshold", [0.1, 0.5, AREA_THRESHOLD, 30.0])
def test_the_package_keeps_the_same_points(threshold: float) -> None:
    for seed in range(300):
        points = line(seed)

        np.testing.assert_array_equal(
            points[simplify(points, threshold)], Simplifier(points).simplify(threshold=threshold)
        )


def test_ends_are_kept_whatever_the_threshold() -> None:
    points = line(1)

    assert simplify(points, math.inf) == [0, len(points) - 1]
    assert simplify(points[:1], 2.0) == [0]
