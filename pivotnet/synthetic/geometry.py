"""Polylines in the plane, float64 [n, 2]. All lengths in metres."""

from __future__ import annotations

import numpy as np


def turn(start: np.ndarray, departure: np.ndarray, end: np.ndarray, arrival: np.ndarray, count: int) -> np.ndarray:
    """A smooth curve from ``start`` to ``end`` (a cubic Bezier curve), both included: [count, 2].

    ``departure`` and ``arrival`` are unit vectors [2], the directions of travel at the two ends.
    """
    reach = 0.38 * np.hypot(*(end - start))
    t = np.linspace(0.0, 1.0, count)[:, None]
    first, second = start + reach * departure, end - reach * arrival
    return (1 - t) ** 3 * start + 3 * (1 - t) ** 2 * t * first + 3 * (1 - t) * t**2 * second + t**3 * end


def unit(angle: float) -> np.ndarray:
    """Unit vector [2] of a direction in radians."""
    return np.array([np.cos(angle), np.sin(angle)])


def lengths_along(line: np.ndarray) -> np.ndarray:
    """Distance of every vertex from the start, along the line: [n, 2] -> [n]."""
    return np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])


def at_lengths(line: np.ndarray, distances: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
    """Points at these distances along the line, clamped to its ends: [n, 2], [m] -> [m, 2].

    ``lengths`` [n] are the distances of the line's own vertices, if they are to be measured along another line.
    """
    lengths = lengths_along(line) if lengths is None else lengths
    return np.stack([np.interp(distances, lengths, line[:, axis]) for axis in (0, 1)], axis=1)


def resample(line: np.ndarray, start: float, end: float, step: float) -> np.ndarray:
    """The line between two distances along it, with a vertex about every ``step``: [n, 2] -> [m, 2]."""
    return at_lengths(line, np.linspace(start, end, max(2, int(round((end - start) / step)) + 1)))


def left_normals(line: np.ndarray) -> np.ndarray:
    """Unit vector to the left of the direction of travel at every vertex: [n, 2] -> [n, 2]."""
    dx, dy = np.gradient(line, axis=0).T
    return np.stack([-dy, dx], axis=1) / np.hypot(dx, dy)[:, None]
