"""Whole arrays at once against one geometry after the other: equal in every bit."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import shapely
from shapely.affinity import rotate, translate
from shapely.geometry import LineString, Polygon
from shapely.ops import linemerge, unary_union

from pivotnet.annotation.expansion import LocationMap
from pivotnet.annotation.format import Line
from pivotnet.annotation.pivots import AREA_THRESHOLD, _areas, orient, pivot_lines, simplify
from pivotnet.annotation.rasterize import clip_again, rasterize
from pivotnet.annotation.vectors import contours, ego_vectors
from pivotnet.config import MapConfig

CONFIG = MapConfig()
SIZE = CONFIG.ego_size


def walk(rng, count) -> np.ndarray:
    """Points [count, 2] within some 60 m of the origin; every other walk crosses itself."""
    angle = np.cumsum(rng.normal(0, 0.8, count))
    steps = np.stack([np.cos(angle), np.sin(angle)], axis=1) * rng.uniform(0.5, 9, (count, 1))
    return np.cumsum(steps, axis=0) + rng.uniform(-40, 40, 2)


def array(geometries) -> np.ndarray:
    result = np.empty(len(geometries), object)
    result[:] = geometries
    return result


def town(seed) -> LocationMap:
    """A map about the origin: dividers, crossings, wide roads that join around holes, and lanes on some of them."""
    rng = np.random.default_rng(seed)
    dividers = [array([LineString(walk(rng, rng.integers(2, 20))) for _ in range(count)]) for count in (9, 7)]
    crossings = array([LineString(rng.uniform(-40, 40, (2, 2))) for _ in range(8)])
    roads = [LineString(walk(rng, 12)).buffer(rng.uniform(2, 5)) for _ in range(4)]
    roads.append(Polygon([(-12, -9), (14, -10), (13, 11), (-14, 8)], [[(-5, -4), (6, -5), (5, 5), (-6, 4)]]))
    lanes = [road.buffer(-1) for road in roads if isinstance(road.buffer(-1), Polygon)]
    lanes.append(shapely.box(rng.uniform(30, 50), 15, 90, 80))  # often only touches the window or misses it
    return LocationMap((dividers[0], dividers[1]), crossings, (array(roads), array(lanes)))


def parts(geometry, kind) -> list:
    found = [part for part in getattr(geometry, "geoms", [geometry]) if part.geom_type == kind and not part.is_empty]
    return found


def plain_contours(areas) -> list[LineString]:
    joined = unary_union([unary_union([part for area in layer for part in parts(area, "Polygon")]) for layer in areas])
    polygons = parts(joined, "Polygon")
    rings = [ring if not ring.is_ccw else shapely.reverse(ring) for ring in (area.exterior for area in polygons)]
    holes = [ring for area in polygons for ring in area.interiors]
    rings += [ring if ring.is_ccw else shapely.reverse(ring) for ring in holes]
    inner = shapely.box(-SIZE[0] / 2 + 0.2, -SIZE[1] / 2 + 0.2, SIZE[0] / 2 - 0.2, SIZE[1] / 2 - 0.2)
    lines = []
    for ring in rings:
        pieces = parts(ring.intersection(inner), "LineString")
        lines += parts(linemerge(pieces), "LineString") if len(pieces) > 1 else pieces
    return lines


def plain_vectors(town, x, y, yaw) -> list[tuple[int, np.ndarray]]:
    """Every geometry of a map for itself, by shapely's functions for single ones."""
    window = rotate(shapely.box(x - SIZE[0] / 2, y - SIZE[1] / 2, x + SIZE[0] / 2, y + SIZE[1] / 2), yaw, origin=(x, y))

    def clipped(geometries) -> list:
        cuts = [geometry.intersection(window) for geometry in geometries if geometry.envelope.intersects(window)]
        return [translate(rotate(cut, -yaw, origin=(x, y)), -x, -y) for cut in cuts if not cut.is_empty]

    lines = [(0, part) for layer in town.dividers for cut in clipped(layer) for part in parts(cut, "LineString")]
    lines += [(1, part) for cut in clipped(town.crossings) for part in parts(cut, "LineString")]
    lines += [(2, line) for line in plain_contours([clipped(layer) for layer in town.areas])]
    return [
        (kind, np.array([line.interpolate(metre).coords[0] for metre in range(math.ceil(line.length))]))
        for kind, line in lines
    ]


@pytest.mark.parametrize("seed", range(12))
def test_vectors_are_those_of_single_geometries(seed):
    place = town(seed)
    rng = np.random.default_rng([seed, 1])
    for yaw in (0.0, 90.0, *rng.uniform(-180, 180, 3)):
        x, y = rng.uniform(-15, 15, 2)
        ours, plain = ego_vectors(place, x, y, yaw, CONFIG), plain_vectors(place, x, y, yaw)
        assert [line.kind for line in ours] == [kind for kind, _ in plain]
        for line, (_, points) in zip(ours, plain):
            np.testing.assert_array_equal(line.points, points)


def test_a_map_gives_its_layers_in_order():
    place = town(0)
    window = shapely.box(-5, -5, 5, 5)
    near, layers = place.near(window)
    for number, layer in enumerate((*place.dividers, place.crossings, *place.areas)):
        assert list(near[layers == number]) == [one for one in layer if one.envelope.intersects(window)]
    assert (np.diff(layers) >= 0).all()
    empty = np.empty(0, object)
    near, layers = LocationMap((empty, empty), empty, (empty, empty)).near(window)
    assert len(near) == len(layers) == 0


def test_contours_join_the_ends_of_each_ring():
    """Rings that nothing cuts, that one cut opens, and that fall into several pieces, with and without holes."""
    spiral = LineString([(-40, -9), (40, -9), (40, 0), (-40, 0), (-40, 9), (40, 9)]).buffer(2)
    island = Polygon(shapely.box(-3, 3, 3, 6).exterior, [shapely.box(-2, 4, 2, 5).exterior])
    for areas in ([[spiral], [island]], [[spiral, island], []], [[island], []], [[], [spiral]]):
        layers = [array(layer) for layer in areas]
        ours = contours(layers, SIZE)
        assert [line.wkb for line in ours] == [line.wkb for line in plain_contours(areas)]
        assert len(ours)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("distinct_ids", [False, True])
def test_drawing_is_that_of_single_lines(seed, distinct_ids):
    """Lines in and out of the window, in any order of classes, clipped and drawn one after the other."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 30, 140 if seed == 5 else 12)
    lines = [Line(walk(rng, count), int(kind)) for count, kind in zip(counts, rng.integers(0, 2 + seed % 2, 140))]
    window = shapely.box(-SIZE[0] / 2, -SIZE[1] / 2, SIZE[0] / 2, SIZE[1] / 2)
    pieces = [
        Line(np.array(part.coords), line.kind)
        for kind in range(3)
        for line in lines
        if line.kind == kind and len(line.points) >= 2
        for part in parts(LineString(line.points).intersection(window), "LineString")
    ]
    for ours, plain in zip(clip_again(lines, CONFIG), pieces):
        assert ours.kind == plain.kind
        np.testing.assert_array_equal(ours.points, plain.points)
    raster = rasterize(lines, CONFIG, distinct_ids)
    assert len(raster.map_vectors) == len(raster.metric_vectors) == len(pieces)
    canvas = np.zeros((2, 3, 200, 400), np.uint8)
    drawn = [0, 0, 0]
    for number, piece in enumerate(pieces):
        metres = piece.points + [30.0, 15.0]
        pixels = metres * [400 / 60.0, 200 / 30.0]
        drawn[piece.kind] += 1
        for thick in (0, 1):
            instance = drawn[piece.kind] if distinct_ids and len(pieces) > 127 else 2 * number + 1 + thick
            corners = [pixels.astype(np.int32)]
            cv2.polylines(canvas[thick, piece.kind], corners, False, min(instance, 255), (1, 8)[thick])
        np.testing.assert_array_equal(raster.map_vectors[number].points, [200, 400] - pixels[:, ::-1])
        np.testing.assert_array_equal(raster.metric_vectors[number].points, [30.0, 60.0] - metres[:, ::-1])
    upright = canvas[..., ::-1, ::-1].swapaxes(2, 3)
    np.testing.assert_array_equal(raster.masks, upright)
    assert raster.masks.dtype == np.uint8 and raster.masks.flags.c_contiguous and raster.masks.any()


def test_areas_are_rounded_as_single_ones():
    """As Python's floats, with which the simplification goes on."""
    for seed in range(20):
        points = walk(np.random.default_rng(seed), seed + 1) * (0.15, 1 / 3)
        (x, y), ours = points.T.tolist(), _areas(points).tolist()
        assert ours == [
            abs(x[k - 1] * (y[k] - y[k + 1]) + x[k] * (y[k + 1] - y[k - 1]) + x[k + 1] * (y[k - 1] - y[k])) / 2.0
            for k in range(1, len(x) - 1)
        ]


def test_pivots_are_those_of_single_lines():
    rng = np.random.default_rng(3)
    counts = [1, 2, 3, 1, *rng.integers(1, 60, 30), 2, 1]
    lines = [Line(walk(rng, count) * 3 + [100, 200], int(kind)) for count, kind in zip(counts, rng.integers(0, 3, 99))]
    for ours, line in zip(pivot_lines(lines, CONFIG), lines):
        metres = orient((line.points * CONFIG.resolution)[:, ::-1])
        kept = metres[simplify(metres, AREA_THRESHOLD)][: CONFIG.max_points[line.kind]]
        assert ours.kind == line.kind
        np.testing.assert_array_equal(ours.points, kept / np.array(SIZE))
        alone = pivot_lines([line], CONFIG)[0]
        np.testing.assert_array_equal(ours.points, alone.points)
    assert len(pivot_lines(lines, CONFIG)) == len(lines) and pivot_lines([], CONFIG) == []
