"""The converter's steps against independent formulas and the packages that upstream uses.

Whole samples are compared with upstream's in test/golden.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from shapely.geometry import LineString, Polygon
from shapely.ops import linemerge, unary_union
from visvalingamwyatt import Simplifier

from pivotnet.annotation.bezier import DEGREES, bernstein, control_points
from pivotnet.annotation.expansion import LocationMap, crossing_edges
from pivotnet.annotation.format import Line
from pivotnet.annotation.pivots import AREA_THRESHOLD, simplify
from pivotnet.annotation.rasterize import rasterize
from pivotnet.annotation.tables import rotation_matrices, split_of_scene, yaw_degrees
from pivotnet.annotation.vectors import contours, ego_vectors, line_parts, resample
from pivotnet.config import MapConfig
from pivotnet.errors import PivotNetError

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


def parts(geometry, geom_type) -> list:
    found = getattr(geometry, "geoms", [geometry])
    return [part for part in found if part.geom_type == geom_type and not part.is_empty]


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


def test_vectors_lie_in_the_ego_frame():
    """A divider 5 m to the left of a car that looks north, and nothing far away."""
    line = LineString([(95, 150), (95, 250)])
    location = LocationMap([array([line]), *[array([])] * 4])
    (vector,) = ego_vectors(location, 100.0, 200.0, 90.0, CONFIG)
    np.testing.assert_allclose(vector.points, [(x, 5) for x in range(-30, 30)], atol=1e-12)
    assert ego_vectors(location, 500.0, 0.0, 0.0, CONFIG) == []
    assert ego_vectors(LocationMap([array([])] * 5), 0.0, 0.0, 0.0, CONFIG) == []


def test_contours_join_the_ends_of_each_ring():
    """Rings that nothing cuts, that one cut opens, and that fall into several pieces, with and without holes."""
    spiral = LineString([(-40, -9), (40, -9), (40, 0), (-40, 0), (-40, 9), (40, 9)]).buffer(2)
    island = Polygon(shapely.box(-3, 3, 3, 6).exterior, [shapely.box(-2, 4, 2, 5).exterior])
    for areas in ([[spiral], [island]], [[spiral, island], []], [[island], []], [[], [spiral]]):
        ours = contours([array(layer) for layer in areas], SIZE)
        assert [line.wkb for line in ours] == [line.wkb for line in plain_contours(areas)]
        assert len(ours)
    lines = contours([array([shapely.box(-30, -3, 30, 3)]), array([shapely.Point(0, 0)])], SIZE)
    np.testing.assert_allclose(sorted(line.bounds for line in lines), [(-29.8, -3, 29.8, -3), (-29.8, 3, 29.8, 3)])


def test_only_lines_are_left():
    """A clip can leave points and collections, on which upstream stops."""
    window = shapely.box(0, 0, 10, 10)
    touching = LineString([(-1, 1), (1, -1)]).intersection(window)
    both = LineString([(-1, 1), (1, -1), (5, -1), (5, 5)]).intersection(window)
    assert touching.geom_type == "Point" and both.geom_type == "GeometryCollection"
    lines, owners = line_parts(array([touching, both, LineString()]))
    assert [line.wkt for line in lines] == ["LINESTRING (5 0, 5 5)"] and owners.tolist() == [1]


def test_resampling_leaves_out_the_end():
    lines = [[(0, 0), (2.5, 0)], [(0, 0), (0, 2), (1, 2)], [(5, 5), (5, 5.3)]]
    assert [points.tolist() for points in resample(array([LineString(line) for line in lines]))] == [
        [[0, 0], [1, 0], [2, 0]],
        [[0, 0], [0, 1], [0, 2]],  # 3 m long: no point at 3
        [[5, 5]],
    ]
    assert resample(array([])) == []


def test_crossing_edges():
    """The two longest edges, the longest last; equal edges in the order of the outline."""
    trapezoid = Polygon([(0, 0), (6, 0), (5, 2), (0, 2)])
    square = Polygon([(0, 0), (1, 0), (1, 1), (0, 1)])
    assert [edge.wkt for edge in crossing_edges(array([trapezoid, square]))] == [
        "LINESTRING (5 2, 0 2)",
        "LINESTRING (0 0, 6 0)",
        "LINESTRING (1 1, 0 1)",
        "LINESTRING (0 1, 0 0)",
    ]


def test_many_instances():
    """From the 128th instance on ids become 255, as upstream's."""
    lines = [Line(np.array([[x, -15.0], [x, 15.0]]), 0) for x in np.linspace(-29, 29, 120)]
    lines += [Line(np.array([[-30.0, y], [30.0, y]]), 2) for y in np.linspace(-14, 14, 40)]
    merged, _ = rasterize(lines, CONFIG)
    assert set(np.unique(merged[0, 2])) == {0, *range(241, 256, 2)}  # instances 121 to 128, then all in one


@pytest.mark.parametrize("threshold", [0.1, 0.5, AREA_THRESHOLD, 30.0, math.inf])
def test_the_package_keeps_the_same_points(threshold):
    """Of random walks, every other one on a grid, where many triangles are equal or have no area."""
    for seed in range(300):
        rng = np.random.default_rng(seed)
        count = int(rng.integers(1, 70))
        points = np.cumsum(rng.integers(-1, 3, (count, 2)), 0).astype(float) if seed % 2 else walk(rng, count) / 5
        kept = points[simplify(points, threshold)]
        theirs = points[[0, -1][:count]] if threshold == math.inf else Simplifier(points).simplify(threshold=threshold)
        np.testing.assert_array_equal(kept, theirs)


@pytest.mark.parametrize("degree", DEGREES)
def test_bezier_pieces(degree):
    """Curves pass within the tolerance, pieces share ends, and an exact curve needs one piece."""
    angle = np.linspace(0, 1.5 * np.pi, 40)
    line = np.stack([15 + 10 * np.cos(angle), 30 + 10 * np.sin(angle)], axis=1)
    control = control_points(line, degree)
    assert (len(control) - 1) % degree == 0 and control[0, 1] <= control[-1, 1]
    assert {tuple(control[0]), tuple(control[-1])} == {tuple(line[0]), tuple(line[-1])}
    curves = [bernstein(degree)[0] @ control[i : i + degree + 1] for i in range(0, len(control) - 1, degree)]
    assert shapely.distance(shapely.points(np.concatenate(curves)), LineString(line)).mean() < 0.15
    assert len(control_points(np.array([[1.0, 1], [2, 5], [3, 9]]), degree)) == degree + 1


def test_rotations():
    turn = np.array([[math.cos(0.4), 0, 0, math.sin(0.4)]])  # by 0.8 about z
    np.testing.assert_allclose(rotation_matrices(turn)[0, :2, 0], [math.cos(0.8), math.sin(0.8)], atol=1e-15)
    pyquaternion = pytest.importorskip("pyquaternion")
    quaternions = np.random.default_rng(1).normal(size=(200, 4))
    quaternions[::2] /= np.linalg.norm(quaternions[::2], axis=1, keepdims=True)
    want = np.array([pyquaternion.Quaternion(q).rotation_matrix for q in quaternions])
    np.testing.assert_allclose(rotation_matrices(quaternions), want, rtol=0, atol=1e-15)
    yaws = np.degrees(np.arctan2(want[:, 1, 0], want[:, 0, 0]))
    np.testing.assert_allclose([yaw_degrees(q) for q in quaternions], yaws, rtol=0, atol=1e-12)


def test_splits():
    for scene, version, split in (
        ("scene-0003", "v1.0-trainval", "val"),
        ("scene-0553", "v1.0-mini", "train"),
        ("scene-0916", "v1.0-mini", "val"),
        ("scene-0077", "v1.0-test", "test"),
    ):
        assert split_of_scene(scene, version) == split
    with pytest.raises(PivotNetError, match="town-7"):
        split_of_scene("town-7", "v1.0-trainval")
    splits = pytest.importorskip("nuscenes.utils.splits")
    for version, names in (("v1.0-trainval", ("train", "val")), ("v1.0-mini", ("mini_train", "mini_val"))):
        for name in names:
            assert {split_of_scene(scene, version) for scene in getattr(splits, name)} == {name.split("_")[-1]}
