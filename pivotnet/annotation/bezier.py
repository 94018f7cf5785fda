"""Piecewise bezier curves through the lines: BeMapNet's targets."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np

from pivotnet.annotation.format import Line

DEGREES = (2, 1, 3)  # of the curves, by class
_SAMPLES = 100  # points at which curve and line are compared
_MARGIN = 0.05  # metres: smaller distances count as none
_TOLERANCE = 0.1  # metres of mean distance that a piece may have


def bernstein(degree: int) -> np.ndarray:
    """Bernstein polynomials at _SAMPLES even parameters, float64 [_SAMPLES, degree + 1]."""
    t = np.linspace(0, 1, _SAMPLES)[:, None]
    k = np.arange(degree + 1)
    return t**k * (1 - t) ** (degree - k) * np.array([comb(degree, i) for i in k], np.float64)


class PieceFitter:
    """Least-squares bezier curves of one degree."""

    def __init__(self, degree: int) -> None:
        self.basis = bernstein(degree)  # [_SAMPLES, degree + 1]
        self.inverse = np.linalg.pinv(self.basis)

    def fit(self, points: np.ndarray, start: int, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Curves through the pieces of a line ``points`` [m, 2] from vertex ``start`` to each of ``ends`` [n].

        Returns their control points [n, degree + 1, 2], which keep the piece's ends, and mean distances float32 [n].
        """
        steps = np.sqrt(np.square(np.diff(points[start:], axis=0)).sum(1))
        along = np.concatenate([[0.0], np.cumsum(steps)])  # metres from the start to each vertex
        distances = np.linspace(0, along[ends - start], _SAMPLES, axis=1)  # [n, _SAMPLES]
        sampled = np.stack([np.interp(distances, along, points[start:, axis]) for axis in range(2)], axis=-1)
        control = self.inverse @ sampled
        control[:, 0] = points[start]
        control[:, -1] = points[ends]
        return control, _chamfer(sampled, self.basis @ control)


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


def control_points(points: np.ndarray, fitter: PieceFitter) -> np.ndarray:
    """Control points [pieces * degree + 1, 2] of the curves through a line [m, 2]; neighbours share an end.

    From the line's start on, each piece is the longest that stays within _TOLERANCE (a single segment always does).
    The result runs towards growing rows.
    """
    start, last = 0, len(points) - 1
    control = [points[:1]]
    while start < last:
        fit = _longest_fit(points, start, fitter)
        control.append(fit[0][1:])
        start = fit[1]
    joined = np.concatenate(control)
    return joined[::-1] if joined[0, 1] > joined[-1, 1] else joined


def _longest_fit(points: np.ndarray, start: int, fitter: PieceFitter) -> tuple[np.ndarray, int]:
    """Control points [degree + 1, 2] of the longest piece from ``start`` that a curve fits, and the piece's end."""
    end, batch = len(points) - 1, 1
    while True:  # the longest pieces first, in growing batches
        ends = np.arange(end, max(start, end - batch), -1)
        control, losses = fitter.fit(points, start, ends)
        good = np.flatnonzero(losses < _TOLERANCE)
        if len(good):
            return control[good[0]], int(ends[good[0]])
        end, batch = end - len(ends), min(2 * batch, 32)


def control_lines(metric_vectors: Sequence[Line]) -> list[Line]:
    """Control points of every line ((column, row) in metres)."""
    fitters = [PieceFitter(degree) for degree in DEGREES]
    return [Line(control_points(line.points, fitters[line.kind]), line.kind) for line in metric_vectors]
