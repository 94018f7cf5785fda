"""The map around the car as polylines: clipped by the window, turned into the ego frame and resampled every metre."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import shapely

from pivotnet.annotation.expansion import LAYERS, LocationMap
from pivotnet.annotation.format import Line
from pivotnet.config import CLASSES, MapConfig

SAMPLE_DISTANCE = 1.0  # metres along a line
CONTOUR_MARGIN = 0.2  # metres by which the window is shrunk where it cuts contours
_DIVIDER, _CROSSING, _BOUNDARY = range(len(CLASSES))
_LABEL_OF_LAYER = np.array([_DIVIDER, _DIVIDER, _CROSSING])  # of LAYERS of lines
_ROADS, _LANES = LAYERS.index("road_segment"), LAYERS.index("lane")
_LINE_STRING, _POLYGON = 1, 3  # shapely's geometry type ids


def _rotate(xy: np.ndarray, degrees: float, origin: tuple[float, float]) -> np.ndarray:
    """Points [n, 2] rotated about ``origin``, with the roundings of shapely.affinity.rotate."""
    angle = degrees * math.pi / 180.0
    cosine, sine = (0.0 if abs(value) < 2.5e-16 else value for value in (math.cos(angle), math.sin(angle)))
    x0, y0 = origin
    x, y = xy.T
    turned_x = cosine * x - sine * y + (x0 - x0 * cosine + y0 * sine)
    turned_y = sine * x + cosine * y + (y0 - x0 * sine - y0 * cosine)
    return np.stack([turned_x, turned_y], axis=1)


def _parts(geometries: np.ndarray, type_id: int) -> tuple[np.ndarray, np.ndarray]:
    """All parts of a type in order [n], and the index in ``geometries`` of each, int64 [n].

    Empty parts and others (points where a line only touches) are dropped.
    """
    parts, owners = shapely.get_parts(geometries, return_index=True)
    kept = (shapely.get_type_id(parts) == type_id) & ~shapely.is_empty(parts)
    return parts[kept], owners[kept]


def line_parts(geometries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The LineStrings in ``geometries``, in order, and the index of the geometry of each."""
    return _parts(geometries, _LINE_STRING)


def contours(areas: Sequence[np.ndarray], size: tuple[float, float]) -> np.ndarray:
    """Outlines of the joined areas inside the window shrunk by CONTOUR_MARGIN, LineStrings [n].

    All exteriors (clockwise) in the order of the union, then all interiors (counter-clockwise), so that the road is on
    the right hand of each. What is left of a ring on both sides of its first point is joined.
    """
    joined = shapely.union_all([shapely.union_all(_parts(area, _POLYGON)[0]) for area in areas])
    rings, owners = shapely.get_rings(_parts(np.array([joined]), _POLYGON)[0], return_index=True)
    interior = np.diff(owners, prepend=-1) == 0  # of each polygon the exterior comes first
    rings = np.where(shapely.is_ccw(rings) == interior, rings, shapely.reverse(rings))
    half_x, half_y = size[0] / 2 - CONTOUR_MARGIN, size[1] / 2 - CONTOUR_MARGIN
    inner = shapely.box(-half_x, -half_y, half_x, half_y)
    cuts = shapely.intersection(np.concatenate([rings[~interior], rings[interior]]), inner)
    return line_parts(shapely.line_merge(cuts))[0]


def resample(lines: np.ndarray) -> list[np.ndarray]:
    """Points every SAMPLE_DISTANCE from the start of each LineString, its end left out: float64 [n_i, 2] each."""
    counts = np.ceil(shapely.length(lines) / SAMPLE_DISTANCE).astype(np.int64)
    ends = np.cumsum(counts)
    distances = (np.arange(counts.sum()) - np.repeat(ends - counts, counts)) * SAMPLE_DISTANCE
    points = shapely.line_interpolate_point(np.repeat(lines, counts), distances)
    return np.split(shapely.get_coordinates(points), ends[:-1]) if len(lines) else []


def ego_vectors(location: LocationMap, x: float, y: float, yaw: float, config: MapConfig) -> list[Line]:
    """Polylines around a pose (metres, degrees) in the ego frame (x forward, y left): dividers, crossings, contours.

    Lines of a single point stay in, as upstream keeps them; they are of no use to what follows.
    """
    forward, left = config.ego_size[0] / 2, config.ego_size[1] / 2
    upright = shapely.box(x - forward, y - left, x + forward, y + left)
    window = shapely.transform(upright, lambda xy: _rotate(xy, yaw, (x, y)))
    geometries, layers = location.near(window)
    pieces = shapely.intersection(geometries, window)  # empty ones stay
    clipped = shapely.transform(pieces, lambda xy: _rotate(xy, -yaw, (x, y)) - np.array([x, y]))
    lines, owners = line_parts(clipped[layers < _ROADS])
    boundaries = contours([clipped[layers == _ROADS], clipped[layers == _LANES]], config.ego_size)
    labels = [*_LABEL_OF_LAYER[layers[owners]].tolist(), *[_BOUNDARY] * len(boundaries)]
    return [Line(line, label) for line, label in zip(resample(np.concatenate([lines, boundaries])), labels)]
