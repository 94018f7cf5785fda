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
    if abs(row - last_row) > _CLEARLY_FORWARD:
        return points[::-1] if row < last_row else points
    return points[::-1] if column < last_column else points


def simplify(points: np.ndarray, threshold: float) -> list[int]:
    """Indices of the points [n, 2] that Visvalingam and Whyatt's simplification keeps, n >= 1.

    The point that makes the smallest triangle with its neighbours is removed as long as that is smaller than
    ``threshold``; areas of its neighbours are computed anew, but count as no smaller than its own. On ties the first
    goes, but a neighbour whose area did not grow goes before all others, the left one first: the order of the package
    visvalingamwyatt, which upstream uses. Lines have a few dozen points; arrays would cost more than lists.
    """
    x, y = points.T.tolist()
    return _simplify(x, y, _areas(points).tolist(), threshold)


def _simplify(x: list[float], y: list[float], inner_areas: list[float], threshold: float) -> list[int]:
    """``simplify`` on coordinates [n] and the areas [n - 2] of the triangles about the inner points."""
    kept = list(range(len(x)))
    ends = [math.inf] * min(len(kept), 1)
    areas = ends + inner_areas + ends * (len(kept) > 1)
    smallest = min(areas)
    place = areas.index(smallest)
    while smallest < threshold:
        del kept[place], areas[place]
        following = 0
        for neighbour in (place, place - 1):  # the right one has moved to its place
            if 0 < neighbour < len(kept) - 1:
                a, b, c = kept[neighbour - 1 : neighbour + 2]
                area = abs(x[a] * (y[b] - y[c]) + x[b] * (y[c] - y[a]) + x[c] * (y[a] - y[b])) / 2.0
                if area <= smallest:
                    area, following = smallest, neighbour
                areas[neighbour] = area
        smallest = areas[following] if following else min(areas)
        place = following or areas.index(smallest)
    return kept


def _areas(points: np.ndarray) -> np.ndarray:
    """Areas [n - 2] of the triangles that the inner ones of n points make with their neighbours, rounded as in
    ``_simplify``."""
    x, y = points.T
    before, after = y[1:-1] - y[2:], y[:-2] - y[1:-1]
    return np.abs(x[:-2] * before + x[1:-1] * (y[2:] - y[:-2]) + x[2:] * after) / 2.0


def pivot_lines(map_vectors: Sequence[Line], config: MapConfig) -> list[Line]:
    """The pivot points (row, column) in [0, 1] of each map vector ((column, row) in pixels).

    Visvalingam-Whyatt simplification with AREA_THRESHOLD, cut to the class's largest number of points.
    """
    if not map_vectors:
        return []
    ends = np.cumsum([len(line.points) for line in map_vectors]).tolist()
    places = [slice(start, end) for start, end in zip([0, *ends], ends)]
    metres = (np.concatenate([line.points for line in map_vectors]) * config.resolution)[:, ::-1]
    metres = np.concatenate([orient(metres[own]) for own in places])
    x, y = metres.T.tolist()
    areas = _areas(metres).tolist()  # those across two lines are of no use
    shares = metres / np.array(config.ego_size)
    pivots = []
    for line, own in zip(map_vectors, places):
        inner = areas[own.start : max(own.start, own.stop - 2)]
        kept = _simplify(x[own], y[own], inner, AREA_THRESHOLD)[: config.max_points[line.kind]]
        pivots.append(Line(shares[own][kept], line.kind))
    return pivots
