"""The map around the car as polylines: clipped by the window, turned into the ego frame and resampled every metre."""

from __future__ import annotations

import math

import numpy as np
import shapely

from pivotnet.annotation.expansion import LocationMap
from pivotnet.annotation.format import Line
from pivotnet.config import CLASSES, MapConfig

SAMPLE_DISTANCE = 1.0  # metres along a line
CONTOUR_MARGIN = 0.2  # metres by which the window is shrunk where it cuts contours
_DIVIDER, _CROSSING, _BOUNDARY = range(len(CLASSES))
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
        upright = shapely.box(x - half_x, y - half_y, x + half_x, y + half_y)
        self.polygon = shapely.transform(upright, lambda xy: _rotate(xy, yaw, self.centre))

    def clip(self, geometries: np.ndarray) -> np.ndarray:
        """What of each geometry lies in the window, in the ego frame; empty results are left out."""
        pieces = shapely.intersection(geometries, self.polygon)
        pieces = pieces[~shapely.is_empty(pieces)]
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


def parts_of_type(geometries: np.ndarray, type_id: int) -> np.ndarray:
    """All parts of that type in order; empty ones and others (points where a line only touches) are dropped."""
    parts = shapely.get_parts(geometries)
    return parts[(shapely.get_type_id(parts) == type_id) & ~shapely.is_empty(parts)]


def line_parts(geometries: np.ndarray) -> np.ndarray:
    """The LineStrings in ``geometries``, in order."""
    return parts_of_type(geometries, _LINE_STRING)


def contours(areas: tuple[np.ndarray, np.ndarray], size: tuple[float, float]) -> np.ndarray:
    """Outlines of the joined areas inside the window shrunk by CONTOUR_MARGIN, LineStrings [n].

    All exteriors (clockwise) in the order of the union, then all interiors (counter-clockwise), so that the road is on
    the right hand of each.
    """
    joined = shapely.union_all([shapely.union_all(parts_of_type(area, _POLYGON)) for area in areas])
    polygons = parts_of_type(np.array([joined]), _POLYGON)
    if not len(polygons):
        return _NO_GEOMETRY
    exteriors = shapely.get_exterior_ring(polygons)
    holes = [
        shapely.get_interior_ring(polygon, range(count))
        for polygon, count in zip(polygons, shapely.get_num_interior_rings(polygons))
    ]
    interiors = np.concatenate(holes)
    exteriors = np.where(shapely.is_ccw(exteriors), shapely.reverse(exteriors), exteriors)
    interiors = np.where(shapely.is_ccw(interiors), interiors, shapely.reverse(interiors))
    half_x, half_y = size[0] / 2, size[1] / 2
    inner = shapely.box(
        -half_x + CONTOUR_MARGIN, -half_y + CONTOUR_MARGIN, half_x - CONTOUR_MARGIN, half_y - CONTOUR_MARGIN
    )
    lines = []
    for cut in shapely.intersection(np.concatenate([exteriors, interiors]), inner):
        pieces = line_parts(np.array([cut]))
        if len(pieces) > 1:  # joins the pieces on both sides of the ring's first point
            pieces = line_parts(np.array([shapely.line_merge(shapely.multilinestrings(pieces))]))
        lines.append(pieces)
    return np.concatenate(lines)


def resample(lines: np.ndarray) -> list[np.ndarray]:
    """Points every SAMPLE_DISTANCE from the start of each LineString, its end left out: float64 [n_i, 2] each."""
    lengths = shapely.length(lines)
    counts = np.ceil(lengths / SAMPLE_DISTANCE).astype(np.int64)
    starts = np.cumsum(counts) - counts
    distances = (np.arange(counts.sum()) - np.repeat(starts, counts)) * SAMPLE_DISTANCE
    points = shapely.line_interpolate_point(np.repeat(lines, counts), distances)
    return np.split(shapely.get_coordinates(points), starts[1:]) if len(lines) else []


def ego_vectors(location: LocationMap, x: float, y: float, yaw: float, config: MapConfig) -> list[Line]:
    """Polylines around a pose in the ego frame (x forward, y left, metres): dividers, crossings, contours.

    Lines of a single point stay in, as upstream keeps them; they are of no use to what follows.
    """
    window = Window(x, y, yaw, config.ego_size)

    def clipped(layers: tuple) -> list[np.ndarray]:
        return [window.clip(layer.near(window.polygon)) for layer in layers]

    dividers = line_parts(np.concatenate(clipped(location.dividers)))
    crossings = line_parts(clipped((location.crossings,))[0])
    roads, lanes = clipped(location.areas)
    boundaries = contours((roads, lanes), config.ego_size)
    kinds = np.repeat([_DIVIDER, _CROSSING, _BOUNDARY], [len(dividers), len(crossings), len(boundaries)])
    points = resample(np.concatenate([dividers, crossings, boundaries]))
    return [Line(line, int(kind)) for line, kind in zip(points, kinds)]
