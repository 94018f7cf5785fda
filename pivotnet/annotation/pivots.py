"""Pivot points: the few points of a line that keep its shape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from visvalingamwyatt import Simplifier

from pivotnet.annotation.format import Line
from pivotnet.config import MapConfig

AREA_THRESHOLD = 2.0  # square metres of the triangle that a point makes with its neighbours
_CLEARLY_FORWARD = 1.0  # metres: shorter extents along the rows are ordered by column


def orient(points: np.ndarray) -> np.ndarray:
    """Points [n, 2] (row, column) in metres, running from the back to the front of the map (falling rows).

    A line that hardly extends along the rows runs from right to left instead (falling columns).
    """
    (row, column), (last_row, last_column) = points[0], points[-1]
    if abs(row - last_row) > _CLEARLY_FORWARD:
        return points[::-1] if row < last_row else points
    return points[::-1] if column < last_column else points


def pivot_line(line: Line, config: MapConfig) -> Line:
    """The pivot points (row, column) in [0, 1] of a map vector ((column, row) in pixels).

    Visvalingam-Whyatt simplification with AREA_THRESHOLD, cut to the class's largest number of points.
    """
    metres = orient((line.points * config.resolution)[:, ::-1])
    kept = Simplifier(metres).simplify(threshold=AREA_THRESHOLD)[: config.max_points[line.kind]]
    return Line(kept / np.array(config.ego_size), line.kind)


def pivot_lines(map_vectors: Sequence[Line], config: MapConfig) -> list[Line]:
    """Pivot points of every map vector."""
    return [pivot_line(line, config) for line in map_vectors]
