"""The map around the car as polylines: clipped by the window, turned into the ego frame and resampled every metre."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import shapely

from pivotnet.annotation.expansion import LocationMap
from pivotnet.annotation.format import Line
from pivotnet.config import CLASSES, MapConfig

SAMPLE_DISTANCE = 1.0  # metres along a line
CONTOUR_MARGIN = 0.2  # metres by which the window is shrunk where it cuts contours
_DIVIDER, _CROSSING, _BOUNDARY = range(len(CLASSES))
_KIND_OF_LAYER = np.array([_DIVIDER, _DIVIDER, _CROSSING])  # of a LocationMap's layers of lines
_ROADS = len(_KIND_OF_LAYER)  # the first of its layers of areas
_LINE_STRING, _POLYGON = 1, 3  # shapely's geometry type ids
_NO_GEOMETRY = np.empty(0, object)


class Window:
    """The piece of map around a pose: ``size`` metres forward and to the left, turned by the yaw.

    Args:
        x, y: centre in the map, metres.
        yaw: degrees.
        size: (forward, left) in metres.
    """

    def __init__(self, x: float, y: float, yaw: float, size: tuple[float, float]) -> None:
        self.centre = (x, y)
        self.yaw = yaw
        half_x, half_y = size[0] / 2, size[1] / 2
        right, left, top, bottom = x + half_x, x - half_x, y + half_y, y - half_y
        corners = np.array([(right, bottom), (right, top), (left, top), (left, bottom), (right, bottom)])
        self.polygon = shapely.polygons(_rotate(corners, yaw, self.centre))

    def clip(self, geometries: np.ndarray) -> np.ndarray:
        """What of each geometry lies in the window, in the ego frame; empty results stay."""
        pieces = shapely.intersection(geometries, self.polygon)
        turned = _rotate(shapely.get_coordinates(pieces), -self.yaw, self.centre) - np.array(self.centre)
        return shapely.set_coordinates(pieces, turned)


def _rotate(xy: np.ndarray, degrees: float, origin: tuple[float, float]) -> np.ndarray:
    """Points [n, 2] rotated about ``origin``, with the roundings of shapely.affinity.rotate."""
    angle = degrees * math.pi / 180.0
    cosine, sine = (0.0 if abs(value) < 2.5e-16 else value for value in (math.cos(angle), math.sin(angle)))
    x0, y0 = origin
    x, y = xy.T
    turned_x = cosine * x - sine * y + (x0 - x0 * cosine + y0 * sine)
    turned_y = sine * x + cosine * y + (y0 - x0 * sine - y0 * cosine)
    return np.stack([turned_x, turned_y], axis=1)


def parts_of_type(geometries: np.ndarray, type_id: int) -> tuple[np.ndarray, np.ndarray]:
    """All parts of that type in order [n], and the row in ``geometries`` of each, int64 [n].

    Empty parts and others (points where a line only touches) are dropped.
    """
    parts, owners = geometries, np.arange(len(geometries))
    types = shapely.get_type_id(parts)
    if (types > _POLYGON).any():  # collections; taking them apart costs as much as clipping a few lines
        parts, owners = shapely.get_parts(geometries, return_index=True)
        types = shapely.get_type_id(parts)
    kept = (types == type_id) & ~shapely.is_empty(parts)
    return parts[kept], owners[kept]


def line_parts(geometries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The LineStrings in ``geometries``, in order, and the row of each."""
    return parts_of_type(geometries, _LINE_STRING)


def contours(areas: Sequence[np.ndarray], size: tuple[float, float]) -> np.ndarray:
    """Outlines of the joined areas inside the window shrunk by CONTOUR_MARGIN, LineStrings [n].

    All exteriors (clockwise) in the order of the union, then all interiors (counter-clockwise), so that the road is on
    the right hand of each.
    """
    joined = shapely.union_all([shapely.union_all(parts_of_type(area, _POLYGON)[0]) for area in areas])
    polygons, _ = parts_of_type(np.array([joined]), _POLYGON)
    if not len(polygons):
        return _NO_GEOMETRY
    rings, owners = shapely.get_exterior_ring(polygons), np.arange(len(polygons))
    if shapely.get_num_interior_rings(polygons).any():
        rings, owners = shapely.get_rings(polygons, return_index=True)  # of each polygon the exterior first
    interior = np.diff(owners, prepend=-1) == 0
    rings = np.where(shapely.is_ccw(rings) == interior, rings, shapely.reverse(rings))
    half_x, half_y = size[0] / 2 - CONTOUR_MARGIN, size[1] / 2 - CONTOUR_MARGIN
    inner = shapely.box(-half_x, -half_y, half_x, half_y)
    return _joined_ends(shapely.intersection(np.concatenate([rings[~interior], rings[interior]]), inner))


def _joined_ends(cuts: np.ndarray) -> np.ndarray:
    """The lines of each geometry in ``cuts`` (what is left of a ring), those on both sides of its first point joined.

    LineStrings [n] in the order of ``cuts``.
    """
    lines, owners = line_parts(cuts)
    several = np.bincount(owners, minlength=len(cuts))[owners] > 1
    if not several.any():
        return lines
    split, rows = np.unique(owners[several], return_inverse=True)
    merged, places = line_parts(shapely.line_merge(shapely.multilinestrings(lines[several], indices=rows)))
    order = np.argsort(np.concatenate([owners[~several], split[places]]), kind="stable")
    return np.concatenate([lines[~several], merged])[order]


def resample(lines: np.ndarray) -> list[np.ndarray]:
    """Points every SAMPLE_DISTANCE from the start of each LineString, its end left out: float64 [n_i, 2] each."""
    lengths = shapely.length(lines)
    counts = np.ceil(lengths / SAMPLE_DISTANCE).astype(np.int64)
    starts = np.cumsum(counts) - counts
    distances = (np.arange(counts.sum()) - np.repeat(starts, counts)) * SAMPLE_DISTANCE
    points = shapely.line_interpolate_point(np.repeat(lines, counts), distances)
    coordinates = shapely.get_coordinates(points)
    return [coordinates[start : start + count] for start, count in zip(starts.tolist(), counts.tolist())]


def ego_vectors(location: LocationMap, x: float, y: float, yaw: float, config: MapConfig) -> list[Line]:
    """Polylines around a pose in the ego frame (x forward, y left, metres): dividers, crossings, contours.

    Lines of a single point stay in, as upstream keeps them; they are of no use to what follows.
    """
    window = Window(x, y, yaw, config.ego_size)
    geometries, layers = location.near(window.polygon)
    clipped = window.clip(geometries)
    first_area, last_area = np.searchsorted(layers, [_ROADS, _ROADS + 1])
    lines, owners = line_parts(clipped[:first_area])
    boundaries = contours((clipped[first_area:last_area], clipped[last_area:]), config.ego_size)
    kinds = [*_KIND_OF_LAYER[layers[owners]].tolist(), *[_BOUNDARY] * len(boundaries)]
    return [Line(line, kind) for line, kind in zip(resample(np.concatenate([lines, boundaries])), kinds)]
