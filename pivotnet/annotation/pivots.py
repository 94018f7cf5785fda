"""Pivot points: the few points of a line that keep its shape."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pivotnet.annotation.format import Line
from pivotnet.config import MapConfig

AREA_THRESHOLD = 2.0  # square metres of the triangle that a point makes with its neighbours
_CLEARLY_FORWARD = 1.0  # metres: shorter extents along the rows are ordered by column


def orient(points: np.ndarray) -> np.ndarray:
    """Points [n, 2] (row, column) in metres, running from the back to the front of the map (falling rows).

    A line that hardly extends along the rows runs from right to left instead (falling columns).
    """
    (row, column), (last_row, last_column) = points[0].tolist(), points[-1].tolist()
    backwards = row < last_row if abs(row - last_row) > _CLEARLY_FORWARD else column < last_column
    return points[::-1] if backwards else points


def simplify(points: np.ndarray, threshold: float) -> list[int]:
    """Indices of the points [n, 2] that Visvalingam and Whyatt's simplification keeps, n >= 1.

    The point that makes the smallest triangle with its neighbours is removed as long as that is smaller than
    ``threshold``; areas of its neighbours are computed again, but count as no smaller than its own. On ties the first
    goes, but a neighbour whose area did not grow goes before all others, the left one first: the order of the package
    visvalingamwyatt, which upstream uses. Lines have a few dozen points; arrays would cost more than lists.
    """
    x, y = points.T.tolist()

    def area(a: int, b: int, c: int) -> float:
        return abs(x[a] * (y[b] - y[c]) + x[b] * (y[c] - y[a]) + x[c] * (y[a] - y[b])) / 2.0

    kept = list(range(len(x)))
    areas = [math.inf, *map(area, kept, kept[1:], kept[2:]), math.inf]
    smallest = min(areas)
    index = areas.index(smallest)
    while smallest < threshold:
        del kept[index], areas[index]
        following = 0
        for neighbour in (index, index - 1):  # the right one has moved to its index
            if 0 < neighbour < len(kept) - 1:
                areas[neighbour] = area(*kept[neighbour - 1 : neighbour + 2])
                if areas[neighbour] <= smallest:
                    areas[neighbour], following = smallest, neighbour
        smallest = areas[following] if following else min(areas)
        index = following or areas.index(smallest)
    return kept


def pivot_lines(map_vectors: Sequence[Line], config: MapConfig) -> list[Line]:
    """The pivot points (row, column) in [0, 1] of each map vector ((column, row) in pixels).

    Visvalingam-Whyatt simplification with AREA_THRESHOLD, cut to the class's largest number of points.
    """
    pivots = []
    for line in map_vectors:
        metres = orient((line.points * config.resolution)[:, ::-1])
        kept = simplify(metres, AREA_THRESHOLD)[: config.max_points[line.label]]
        pivots.append(Line(metres[kept] / np.array(config.ego_size), line.label))
    return pivots
