"""Polylines in the plane: resampling, offsets and the small curves that towns are made of. All lengths in metres."""

from __future__ import annotations

import numpy as np


def cubic_bezier(p0: np.ndarray, p1: np.ndarray, p2: np.ndarray, p3: np.ndarray, count: int) -> np.ndarray:
    """``count`` points of the cubic Bezier curve with these control points, both ends included: [count, 2]."""
    t = np.linspace(0.0, 1.0, count)[:, None]
    return (1 - t) ** 3 * p0 + 3 * (1 - t) ** 2 * t * p1 + 3 * (1 - t) * t**2 * p2 + t**3 * p3


def quadratic_bezier(p0: np.ndarray, p1: np.ndarray, p2: np.ndarray, count: int) -> np.ndarray:
    """``count`` points of the quadratic Bezier curve with these control points, both ends included: [count, 2]."""
    t = np.linspace(0.0, 1.0, count)[:, None]
    return (1 - t) ** 2 * p0 + 2 * (1 - t) * t * p1 + t**2 * p2


def arc(centre: np.ndarray, radius: float, start: float, end: float, step: float) -> np.ndarray:
    """Points of a circle from angle ``start`` to ``end`` (radians, either direction), about ``step`` metres apart."""
    count = max(2, int(np.ceil(abs(end - start) * radius / step)) + 1)
    angles = np.linspace(start, end, count)
    return centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def arc_lengths(line: np.ndarray) -> np.ndarray:
    """Distance of every vertex from the start, along the line: [n, 2] -> [n]."""
    return np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])


def at_lengths(line: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Points at these distances along the line, held at its ends: [n, 2], [m] -> [m, 2]."""
    lengths = arc_lengths(line)
    return np.stack([np.interp(distances, lengths, line[:, axis]) for axis in (0, 1)], axis=1)


def cut(line: np.ndarray, start: float, end: float) -> np.ndarray:
    """The part of the line between two distances along it; its own vertices in between are kept."""
    lengths = arc_lengths(line)
    inside = line[(lengths > start + 1e-6) & (lengths < end - 1e-6)]
    ends = at_lengths(line, np.array([start, end]))
    return np.concatenate([ends[:1], inside, ends[1:]])


def resample(line: np.ndarray, step: float) -> np.ndarray:
    """The line with vertices at equal distances of about ``step`` along it, its ends kept."""
    total = arc_lengths(line)[-1]
    return at_lengths(line, np.linspace(0.0, total, max(2, int(round(total / step)) + 1)))


def tangents(line: np.ndarray) -> np.ndarray:
    """Unit direction at every vertex, the mean of the neighbouring segments: [n, 2] -> [n, 2]."""
    segments = np.diff(line, axis=0)
    segments = segments / np.hypot(segments[:, :1], segments[:, 1:])
    mean = np.concatenate([segments[:1], segments[:-1] + segments[1:], segments[-1:]])
    return mean / np.hypot(mean[:, :1], mean[:, 1:])


def left_normals(line: np.ndarray) -> np.ndarray:
    """Unit vector to the left of the direction of travel at every vertex: [n, 2] -> [n, 2]."""
    direction = tangents(line)
    return np.stack([-direction[:, 1], direction[:, 0]], axis=1)


def meeting_point(p: np.ndarray, p_direction: np.ndarray, q: np.ndarray, q_direction: np.ndarray) -> np.ndarray:
    """Where two rays cross; the middle of ``p`` and ``q`` when they do not (parallel, or behind a start)."""
    matrix = np.stack([p_direction, -q_direction], axis=1)
    if abs(np.linalg.det(matrix)) > 0.15:
        along_p, along_q = np.linalg.solve(matrix, q - p)
        limit = 2.0 * np.hypot(*(q - p))
        if 0.0 < along_p < limit and 0.0 < along_q < limit:
            return p + along_p * p_direction
    return (p + q) / 2


def smooth(line: np.ndarray, rounds: int) -> np.ndarray:
    """Chaikin's corner cutting: every round replaces a vertex by points at 1/4 and 3/4 of its segments."""
    for _ in range(rounds):
        quarter = 0.75 * line[:-1] + 0.25 * line[1:]
        three_quarters = 0.25 * line[:-1] + 0.75 * line[1:]
        inner = np.stack([quarter, three_quarters], axis=1).reshape(-1, 2)
        line = np.concatenate([line[:1], inner, line[-1:]])
    return line


def band(line: np.ndarray, width: float) -> np.ndarray:
    """One quadrilateral a segment, ``width`` wide, for painting a line: [n, 2] -> [n - 1, 4, 2]."""
    offset = left_normals(line) * width / 2
    left, right = line + offset, line - offset
    return np.stack([left[:-1], left[1:], right[1:], right[:-1]], axis=1)


def dashes(line: np.ndarray, dash: float, gap: float) -> list[np.ndarray]:
    """The painted pieces of a dashed line, each a polyline."""
    total = arc_lengths(line)[-1]
    starts = np.arange(0.0, max(total - dash / 2, 1e-3), dash + gap)
    return [cut(line, start, min(start + dash, total)) for start in starts]


def rectangle(centre: np.ndarray, length: float, width: float, yaw: float) -> np.ndarray:
    """Corners of a rectangle whose ``length`` points along ``yaw`` (radians), counter-clockwise: [4, 2]."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * np.array([length, width]) / 2
    c, s = np.cos(yaw), np.sin(yaw)
    return corners @ np.array([[c, s], [-s, c]]) + centre
