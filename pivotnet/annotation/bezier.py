"""Piecewise bezier curves through the lines: BeMapNet's targets."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from math import comb

import numpy as np

from pivotnet.annotation.format import Line
from pivotnet.config import MapConfig

DEGREES = (2, 1, 3)  # of the curves, by class
_SAMPLES = 100  # points at which curve and line are compared
_MARGIN = 0.05  # metres: smaller distances count as none
_TOLERANCE = 0.1  # metres of mean distance that a piece may have
_LARGEST_BATCH = 32  # pieces fitted at once


@functools.lru_cache
def bernstein(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Bernstein polynomials at _SAMPLES even parameters, float64 [_SAMPLES, degree + 1], and their pseudo-inverse."""
    t = np.linspace(0, 1, _SAMPLES)[:, None]
    k = np.arange(degree + 1)
    basis = t**k * (1 - t) ** (degree - k) * np.array([comb(degree, i) for i in k], np.float64)
    return basis, np.linalg.pinv(basis)


def _fit(points: np.ndarray, start: int, ends: np.ndarray, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares curves through the pieces of a line ``points`` [m, 2] from vertex ``start`` to ``ends`` [n].
    Returns their control points [n, degree + 1, 2], which keep the piece's ends, and mean distances float32 [n]."""
    basis, inverse = bernstein(degree)
    steps = np.sqrt(np.square(np.diff(points[start:], axis=0)).sum(1))
    along = np.concatenate([[0.0], np.cumsum(steps)])  # metres from the start to each vertex
    distances = np.linspace(0, along[ends - start], _SAMPLES, axis=1)  # [n, _SAMPLES]
    sampled = np.stack([np.interp(distances, along, points[start:, axis]) for axis in range(2)], axis=-1)
    control = inverse @ sampled
    control[:, 0] = points[start]
    control[:, -1] = points[ends]
    return control, _chamfer(sampled, basis @ control)


def _chamfer(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Mean of both directed chamfer distances of point sets [n, m, 2], distances up to _MARGIN being 0: float32 [n].

    In float32 and through |a|^2 + |b|^2 - 2ab, as torch.cdist computes it for that many points: its error near 0 is of
    the margin's order, so another formula would cut some lines elsewhere.
    """
    a, b = first.astype(np.float32), second.astype(np.float32)
    square_a, square_b = ((side * side).sum(-1, keepdims=True) for side in (a, b))
    left = np.concatenate([-2 * a, square_a, np.ones_like(square_a)], axis=-1)  # [n, m, 4]
    right = np.concatenate([b, np.ones_like(square_b), square_b], axis=-1)
    squares = left @ right.transpose(0, 2, 1)  # [n, m, m]
    nearest = np.sqrt(np.maximum(np.stack([squares.min(2), squares.min(1)]), 0))  # [2, n, m]
    return np.where(nearest > _MARGIN, nearest, np.float32(0)).mean(-1).sum(0) / 2


def control_points(points: np.ndarray, degree: int) -> np.ndarray:
    """Control points [pieces * degree + 1, 2] of the curves through a line [m, 2]; neighbours share an end. From the
    line's start on, each piece is the longest that stays within _TOLERANCE (a single segment always does). The result
    runs towards growing rows."""
    control = [points[:1]]
    start, last = 0, len(points) - 1
    while start < last:
        end, batch = last, 1
        while True:  # the longest pieces first, in growing batches
            ends = np.arange(end, max(start, end - batch), -1)
            curves, distances = _fit(points, start, ends, degree)
            good = np.flatnonzero(distances < _TOLERANCE)
            if len(good):
                break
            end, batch = end - len(ends), min(2 * batch, _LARGEST_BATCH)
        control.append(curves[good[0]][1:])
        start = int(ends[good[0]])
    joined = np.concatenate(control)
    return joined[::-1] if joined[0, 1] > joined[-1, 1] else joined


def control_lines(map_vectors: Sequence[Line], config: MapConfig) -> list[Line]:
    """Control points ((column, row) in metres) of each map vector ((column, row) in pixels)."""
    metres = [line.points * config.resolution for line in map_vectors]
    return [Line(control_points(m, DEGREES[line.label]), line.label) for m, line in zip(metres, map_vectors)]
