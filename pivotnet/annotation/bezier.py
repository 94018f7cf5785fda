"""Piecewise bezier curves through the lines: BeMapNet's targets."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
import shapely

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

    def fit(self, pieces: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Control points [n, degree + 1, 2] and mean distances float32 [n] of pieces of lines, each [m, 2].

        The first and last control points are the piece's ends.
        """
        owner = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
        lines = shapely.linestrings(np.concatenate(pieces), indices=owner)
        distances = np.linspace(0, shapely.length(lines), _SAMPLES, axis=1)  # [n, _SAMPLES]
        points = shapely.get_coordinates(shapely.line_interpolate_point(lines[:, None], distances))
        points = points.reshape(len(pieces), _SAMPLES, 2)
        control = self.inverse @ points
        control[:, 0] = [piece[0] for piece in pieces]
        control[:, -1] = [piece[-1] for piece in pieces]
        return control, _chamfer(points, self.basis @ control)


def _chamfer(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Mean of both directed chamfer distances of point sets [n, m, 2], distances up to _MARGIN being 0: float32 [n].

    In float32 and through |a|^2 + |b|^2 - 2ab, as torch.cdist computes it for that many points: its error near 0 is of
    the margin's order, so another formula would cut some lines elsewhere.
    """
    a, b = first.astype(np.float32), second.astype(np.float32)
    square_a, square_b = ((side * side).sum(-1, keepdims=True) for side in (a, b))
    left = np.concatenate([-2 * a, square_a, np.ones_like(square_a)], axis=-1)  # [n, m, 4]
    right = np.concatenate([b, np.ones_like(square_b), square_b], axis=-1)
    distance = np.sqrt(np.maximum(left @ right.transpose(0, 2, 1), 0))  # [n, m, m]
    nearest = np.stack([distance.min(2), distance.min(1)])
    return np.where(nearest > _MARGIN, nearest, np.float32(0)).mean(-1).sum(0) / 2


def control_points(points: np.ndarray, fitter: PieceFitter) -> np.ndarray:
    """Control points [pieces * degree + 1, 2] of the curves through a line [m, 2]; neighbours share an end.

    Each piece is the longest that stays within _TOLERANCE, from the line's start on. The result runs towards growing
    rows.
    """
    start, last = 0, len(points) - 1
    control = [points[:1]]
    while start < last:
        end, batch = last, 1
        while True:  # tries the longest pieces first, in growing batches
            ends = np.arange(end, max(start, end - batch), -1)
            fitted, losses = fitter.fit([points[start : stop + 1] for stop in ends])
            good = np.flatnonzero(losses < _TOLERANCE)
            if len(good):
                control.append(fitted[good[0], 1:])
                start = int(ends[good[0]])
                break
            if ends[-1] == start + 1:
                raise FloatingPointError(f"no curve fits the segment {points[start : start + 2].tolist()}")
            end, batch = int(ends[-1]) - 1, min(2 * batch, 32)
    joined = np.concatenate(control)
    return joined[::-1] if joined[0, 1] > joined[-1, 1] else joined


def control_lines(metric_vectors: Sequence[Line]) -> list[Line]:
    """Control points of every line ((column, row) in metres)."""
    fitters = [PieceFitter(degree) for degree in DEGREES]
    return [Line(control_points(line.points, fitters[line.kind]), line.kind) for line in metric_vectors]
