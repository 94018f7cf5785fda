"""The map around the car: as polylines (clipped by the window, turned into the ego frame and resampled every metre), as
instance masks (the network's targets and the evaluation's ground truth), as pivot points that keep the shape,
and as piecewise bezier curves (BeMapNet's targets)."""

import functools
import math
from collections.abc import Sequence

import cv2
import numpy as np
import shapely

from pivotnet.annotation.expansion import LAYERS, LocationMap
from pivotnet.annotation.format import Line, joined_points, split_points
from pivotnet.config import CLASSES, MapConfig

SAMPLE_DISTANCE = 1.0  # metres along a line
CONTOUR_MARGIN = 0.2  # metres by which the window is shrunk where it cuts contours
DEGREES = (2, 1, 3)  # of the curves, by class
_SAMPLES = 100  # points at which curve and line are compared
_MARGIN = 0.05  # metres: smaller distances count as none
_TOLERANCE = 0.1  # metres of mean distance that a piece may have
_LARGEST_BATCH = 32  # pieces fitted at once
AREA_THRESHOLD = 2.0  # square metres of the triangle that a point makes with its neighbours
_CLEARLY_FORWARD = 1.0  # metres: shorter extents along the rows are ordered by column
_LARGEST_ID = 255
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


def parts_of_type(geometries: np.ndarray, type_id: int = _LINE_STRING) -> tuple[np.ndarray, np.ndarray]:
    """All parts of a type in order [n], and the index in ``geometries`` of each, int64 [n]. Empty parts and others
    (points where a line only touches) are dropped."""
    parts, owners = shapely.get_parts(geometries, return_index=True)
    kept = (shapely.get_type_id(parts) == type_id) & ~shapely.is_empty(parts)
    return parts[kept], owners[kept]


def contours(areas: Sequence[np.ndarray], size: tuple[float, float]) -> np.ndarray:
    """Outlines of the joined areas inside the window shrunk by CONTOUR_MARGIN, LineStrings [n]. All exteriors
    (clockwise) in the order of the union, then all interiors (counter-clockwise), so that the road is on the right hand
    of each. What is left of a ring on both sides of its first point is joined."""
    joined = shapely.union_all([shapely.union_all(parts_of_type(area, _POLYGON)[0]) for area in areas])
    rings, owners = shapely.get_rings(parts_of_type(np.array([joined]), _POLYGON)[0], return_index=True)
    interior = np.diff(owners, prepend=-1) == 0  # of each polygon the exterior comes first
    rings = np.where(shapely.is_ccw(rings) == interior, rings, shapely.reverse(rings))
    half_x, half_y = size[0] / 2 - CONTOUR_MARGIN, size[1] / 2 - CONTOUR_MARGIN
    inner = shapely.box(-half_x, -half_y, half_x, half_y)
    cuts = shapely.intersection(np.concatenate([rings[~interior], rings[interior]]), inner)
    return parts_of_type(shapely.line_merge(cuts))[0]


def resample(lines: np.ndarray) -> list[np.ndarray]:
    """Points every SAMPLE_DISTANCE from the start of each LineString, its end left out: float64 [n_i, 2] each."""
    counts = np.ceil(shapely.length(lines) / SAMPLE_DISTANCE).astype(np.int64)
    ends = np.cumsum(counts)
    distances = (np.arange(counts.sum()) - np.repeat(ends - counts, counts)) * SAMPLE_DISTANCE
    points = shapely.line_interpolate_point(np.repeat(lines, counts), distances)
    return np.split(shapely.get_coordinates(points), ends[:-1]) if len(lines) else []


def ego_vectors(location: LocationMap, x: float, y: float, yaw: float, config: MapConfig) -> list[Line]:
    """Polylines around a pose (metres, degrees) in the ego frame (x forward, y left): dividers, crossings, contours.
    Lines of a single point stay in, as upstream keeps them; they are of no use to what follows."""
    forward, left = config.ego_size[0] / 2, config.ego_size[1] / 2
    upright = shapely.box(x - forward, y - left, x + forward, y + left)
    window = shapely.transform(upright, lambda xy: _rotate(xy, yaw, (x, y)))
    geometries, layers = location.near(window)
    pieces = shapely.intersection(geometries, window)  # empty ones stay
    clipped = shapely.transform(pieces, lambda xy: _rotate(xy, -yaw, (x, y)) - np.array([x, y]))
    lines, owners = parts_of_type(clipped[layers < _ROADS])
    boundaries = contours([clipped[layers == _ROADS], clipped[layers == _LANES]], config.ego_size)
    labels = [*_LABEL_OF_LAYER[layers[owners]].tolist(), *[_BOUNDARY] * len(boundaries)]
    return [Line(line, label) for line, label in zip(resample(np.concatenate([lines, boundaries])), labels)]


def _clip_again(lines: Sequence[Line], config: MapConfig) -> list[Line]:
    """Lines cut by the upright window in the ego frame, sorted by class; one line may become several or none. Rounding
    and resampling leave points a little outside of the window; lines of a single point are dropped."""
    half_x, half_y = config.ego_size[0] / 2, config.ego_size[1] / 2
    window = shapely.box(-half_x, -half_y, half_x, half_y)
    by_class = sorted((line for line in lines if len(line.points) >= 2), key=lambda line: line.label)
    if not by_class:
        return []
    owners = np.repeat(np.arange(len(by_class)), [len(line.points) for line in by_class])
    whole = shapely.linestrings(joined_points(by_class), indices=owners)
    pieces, owners = parts_of_type(shapely.intersection(whole, window))
    return [Line(shapely.get_coordinates(piece), by_class[owner].label) for piece, owner in zip(pieces, owners)]


def rasterize(lines: Sequence[Line], config: MapConfig) -> tuple[np.ndarray, list[Line]]:
    """Draw lines of the ego frame (metres, x forward, y left) into masks uint8 [2, C, rows, columns] of instance ids,
    drawn thin (evaluation) and thick (training), rows from the front to the back of the map, columns from left to
    right; returns the drawn lines too ((column, row), pixels not rounded). Instance k of the sample (from 1, over all
    classes) has id 2k-1 in the thin and 2k in the thick mask; ids above 255 become 255, as upstream's do, so that the
    lines from the 128th on merge."""
    pieces = _clip_again(lines, config)
    rows, columns = config.map_size
    scale = np.array([rows / config.ego_size[0], columns / config.ego_size[1]])
    pixels = (joined_points(pieces) + np.array(config.ego_size) / 2) * scale  # from the back right corner
    corners = split_points(pieces, pixels.astype(np.int32))  # truncated, as upstream does
    canvas = np.zeros((2, len(CLASSES), columns, rows), np.uint8)  # drawn transposed and mirrored: x right, y down
    for number, line in enumerate(corners):
        for thick, thickness in enumerate((config.result_thickness, config.mask_thickness)):
            instance = min(2 * number + 1 + thick, _LARGEST_ID)
            cv2.polylines(canvas[thick, line.label], [line.points], False, (instance,), thickness)
    masks = np.array([[cv2.flip(cv2.transpose(mask), -1) for mask in drawn] for drawn in canvas])
    return masks, split_points(pieces, np.array([columns, rows]) - pixels[:, ::-1])


def orient(points: np.ndarray) -> np.ndarray:
    """Points [n, 2] (row, column) in metres, running from the back to the front of the map (falling rows). A line that
    hardly extends along the rows runs from right to left instead (falling columns)."""
    (row, column), (last_row, last_column) = points[0].tolist(), points[-1].tolist()
    backwards = row < last_row if abs(row - last_row) > _CLEARLY_FORWARD else column < last_column
    return points[::-1] if backwards else points


def simplify(points: np.ndarray, threshold: float) -> list[int]:
    """Indices of the points [n, 2] that Visvalingam and Whyatt's simplification keeps, n >= 1. The point that makes the
    smallest triangle with its neighbours is removed as long as that is smaller than ``threshold``; areas of its
    neighbours are computed again, but count as no smaller than its own. On ties the first goes, but a neighbour whose
    area did not grow goes before all others, the left one first: the order of the package visvalingamwyatt, which
    upstream uses. Lines have a few dozen points; arrays would cost more than lists."""
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
    """The pivot points (row, column) in [0, 1] of each map vector ((column, row) in pixels). Visvalingam-Whyatt
    simplification with AREA_THRESHOLD, cut to the class's largest number of points."""
    pivots = []
    for line in map_vectors:
        metres = orient((line.points * config.resolution)[:, ::-1])
        kept = simplify(metres, AREA_THRESHOLD)[: config.max_points[line.label]]
        pivots.append(Line(metres[kept] / np.array(config.ego_size), line.label))
    return pivots


@functools.lru_cache
def bernstein(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Bernstein polynomials at _SAMPLES even parameters, float64 [_SAMPLES, degree + 1], and their pseudo-inverse."""
    t = np.linspace(0, 1, _SAMPLES)[:, None]
    k = np.arange(degree + 1)
    basis = t**k * (1 - t) ** (degree - k) * np.array([math.comb(degree, i) for i in k], np.float64)
    return basis, np.linalg.pinv(basis)


def _fit(points: np.ndarray, start: int, ends: np.ndarray, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares curves through the pieces of a line ``points`` [m, 2] from vertex ``start`` to ``ends`` [n].
    Returns their control points [n, degree + 1, 2], which keep the piece's ends, and mean distances float32 [n]."""
    basis, inverse = bernstein(degree)
    steps = np.sqrt(np.square(np.diff(points[start:], axis=0)).sum(1))
    along = np.concatenate([[0.0], np.cumsum(steps)])  # metres from the start to each vertex
    distances = np.linspace(0, along[ends - start], _SAMPLES, axis=1)  # [n, _SAMPLES]
    sampled = np.stack([np.interp(distances, along, points[start:, axis]) for axis in range(2)], axis=-1)
    control = inverse @ sampled
    control[:, 0] = points[start]
    control[:, -1] = points[ends]
    return control, _chamfer(sampled, basis @ control)


def _chamfer(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Mean of both directed chamfer distances of point sets [n, m, 2], distances up to _MARGIN being 0: float32 [n]. In
    float32 and through |a|^2 + |b|^2 - 2ab, as torch.cdist computes it for that many points: its error near 0 is of the
    margin's order, so another formula would cut some lines elsewhere."""
    a, b = first.astype(np.float32), second.astype(np.float32)
    square_a, square_b = ((side * side).sum(-1, keepdims=True) for side in (a, b))
    left = np.concatenate([-2 * a, square_a, np.ones_like(square_a)], axis=-1)  # [n, m, 4]
    right = np.concatenate([b, np.ones_like(square_b), square_b], axis=-1)
    squares = left @ right.transpose(0, 2, 1)  # [n, m, m]
    nearest = np.sqrt(np.maximum(np.stack([squares.min(2), squares.min(1)]), 0))  # [2, n, m]
    return np.where(nearest > _MARGIN, nearest, np.float32(0)).mean(-1).sum(0) / 2


def control_points(points: np.ndarray, degree: int) -> np.ndarray:
    """Control points [pieces * degree + 1, 2] of the curves through a line [m, 2]; neighbours share an end. From the
    line's start on, each piece is the longest that stays within _TOLERANCE (a single segment always does). The result
    runs towards growing rows."""
    control = [points[:1]]
    start, last = 0, len(points) - 1
    while start < last:
        end, batch = last, 1
        while True:  # the longest pieces first, in growing batches
            ends = np.arange(end, max(start, end - batch), -1)
            curves, distances = _fit(points, start, ends, degree)
            good = np.flatnonzero(distances < _TOLERANCE)
            if len(good):
                break
            end, batch = end - len(ends), min(2 * batch, _LARGEST_BATCH)
        control.append(curves[good[0]][1:])
        start = int(ends[good[0]])
    joined = np.concatenate(control)
    return joined[::-1] if joined[0, 1] > joined[-1, 1] else joined


def control_lines(map_vectors: Sequence[Line], config: MapConfig) -> list[Line]:
    """Control points ((column, row) in metres) of each map vector ((column, row) in pixels)."""
    metres = [line.points * config.resolution for line in map_vectors]
    return [Line(control_points(m, DEGREES[line.label]), line.label) for m, line in zip(metres, map_vectors)]
