"""The converter's steps against independent formulas, and against the packages upstream uses where those are there."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import shapely
import shapely.affinity
import torch
from shapely.geometry import LineString, Polygon

from pivotnet.annotation.bezier import DEGREES, PieceFitter, _chamfer, bernstein, control_points
from pivotnet.annotation.expansion import LocationMap, crossing_edges
from pivotnet.annotation.format import Line
from pivotnet.annotation.pivots import orient, pivot_lines
from pivotnet.annotation.rasterize import clip_again, rasterize
from pivotnet.annotation.splits import VAL_SCENES, split_of_scene
from pivotnet.annotation.tables import rotation_matrices, yaw_degrees
from pivotnet.annotation.vectors import Window, contours, ego_vectors, line_parts, resample
from pivotnet.config import MapConfig
from pivotnet.errors import PivotNetError

CONFIG = MapConfig()


def layer(geometries) -> np.ndarray:
    array = np.empty(len(geometries), object)
    array[:] = geometries
    return array


def road_map(dividers=(), lanes=(), crossings=(), roads=(), areas=()) -> LocationMap:
    return LocationMap((layer(dividers), layer(lanes)), layer(crossings), (layer(roads), layer(areas)))


def test_rotation_matrices():
    quaternions = np.random.default_rng(0).normal(size=(50, 4))
    matrices = rotation_matrices(quaternions)
    np.testing.assert_allclose(
        matrices @ matrices.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (50, 3, 3)), atol=1e-14
    )
    np.testing.assert_allclose(np.linalg.det(matrices), 1, atol=1e-14)
    turn = np.array([[math.cos(0.4), 0, 0, math.sin(0.4)]])  # by 0.8 about z
    np.testing.assert_allclose(rotation_matrices(turn)[0, :2, 0], [math.cos(0.8), math.sin(0.8)], atol=1e-15)


def test_rotations_are_pyquaternions():
    pyquaternion = pytest.importorskip("pyquaternion")
    quaternions = np.random.default_rng(1).normal(size=(200, 4))
    quaternions[::2] /= np.linalg.norm(quaternions[::2], axis=1, keepdims=True)
    want = np.array([pyquaternion.Quaternion(q).rotation_matrix for q in quaternions])
    np.testing.assert_allclose(rotation_matrices(quaternions), want, rtol=0, atol=1e-15)
    yaws = np.degrees(np.arctan2(want[:, 1, 0], want[:, 0, 0]))
    np.testing.assert_allclose([yaw_degrees(q) for q in quaternions], yaws, rtol=0, atol=1e-12)


def test_yaw_is_rounded_once_a_step():
    """Parts with many digits, for which products rounded on their own give another last bit."""
    quaternion = (0.9848433436555583, -0.0006746089018881697, 0.0014403467542148407, -0.1734389193964179)
    w, x, y, z = map(Fraction, quaternion)
    cosine = float(Fraction(float(Fraction(float(x * x)) + w * w)) - z * z)
    cosine = float(Fraction(cosine) - y * y)
    sine = float(Fraction(float(Fraction(float(y * x)) + z * w)) + w * z)
    sine = float(Fraction(sine) + x * y)
    assert yaw_degrees(quaternion) == np.arctan2(sine, cosine) / np.pi * 180
    assert yaw_degrees((math.cos(0.4), 0, 0, math.sin(0.4))) == pytest.approx(math.degrees(0.8), abs=1e-13)


def test_splits():
    assert len(VAL_SCENES) == 150
    assert split_of_scene("scene-0003", "v1.0-trainval") == "val"
    assert split_of_scene("scene-0553", "v1.0-trainval") == "val"
    assert split_of_scene("scene-0553", "v1.0-mini") == "train"
    assert split_of_scene("scene-0916", "v1.0-mini") == "val"
    assert split_of_scene("scene-0077", "v1.0-test") == "test"
    with pytest.raises(PivotNetError, match="town-7"):
        split_of_scene("town-7", "v1.0-trainval")


def test_splits_are_the_devkits():
    splits = pytest.importorskip("nuscenes.utils.splits")
    for version, names in (("v1.0-trainval", ("train", "val")), ("v1.0-mini", ("mini_train", "mini_val"))):
        for name in names:
            scenes = getattr(splits, name)
            assert {split_of_scene(scene, version) for scene in scenes} == {name.split("_")[-1]}


@pytest.mark.parametrize("yaw", [0.0, 90.0, -137.3, 180.0])
def test_window_is_clipped_and_turned(yaw):
    """A line through the window arrives where the inverse rigid motion puts it."""
    window = Window(100.0, 200.0, yaw, (60.0, 30.0))
    ego = np.array([[-40.0, 5.0], [40.0, 5.0]])
    cosine, sine = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    world = ego @ np.array([[cosine, sine], [-sine, cosine]]) + [100.0, 200.0]
    away = LineString([(0, 0), (1, 1)])
    outside, clipped = window.clip(np.array([away, LineString(world)]))
    assert outside.is_empty
    np.testing.assert_allclose(shapely.get_coordinates(clipped), [[-30, 5], [30, 5]], atol=1e-12)
    theirs = shapely.affinity.rotate(LineString(world).intersection(window.polygon), -yaw, origin=(100, 200))
    theirs = shapely.affinity.translate(theirs, -100, -200)
    assert clipped == theirs  # to the bit


def test_only_lines_are_left():
    """A clip can leave points and collections, on which upstream stops."""
    window = shapely.box(0, 0, 10, 10)
    touching = LineString([(-1, 1), (1, -1)]).intersection(window)
    both = LineString([(-1, 1), (1, -1), (5, -1), (5, 5)]).intersection(window)
    assert touching.geom_type == "Point" and both.geom_type == "GeometryCollection"
    parts, owners = line_parts(np.array([touching, both, LineString()]))
    assert [part.wkt for part in parts] == ["LINESTRING (5 0, 5 5)"] and owners.tolist() == [1]
    parts, owners = line_parts(np.array([touching, parts[0], LineString()]))  # without a collection
    assert [part.wkt for part in parts] == ["LINESTRING (5 0, 5 5)"] and owners.tolist() == [1]


def test_resampling_leaves_out_the_end():
    lines = np.array(
        [LineString([(0, 0), (2.5, 0)]), LineString([(0, 0), (0, 2), (1, 2)]), LineString([(5, 5), (5, 5.3)])]
    )
    sampled = resample(lines)
    np.testing.assert_array_equal(sampled[0], [[0, 0], [1, 0], [2, 0]])
    np.testing.assert_array_equal(sampled[1], [[0, 0], [0, 1], [0, 2]])  # 3 m long: no point at 3
    np.testing.assert_array_equal(sampled[2], [[5, 5]])
    assert resample(np.empty(0, object)) == []


def test_crossing_edges():
    """The two longest edges, the longest last; equal edges in the order of the outline."""
    trapezoid = Polygon([(0, 0), (6, 0), (5, 2), (0, 2)])
    square = Polygon([(0, 0), (1, 0), (1, 1), (0, 1)])
    edges = crossing_edges(np.array([trapezoid, square]))
    assert [edge.wkt for edge in edges] == [
        "LINESTRING (5 2, 0 2)",
        "LINESTRING (0 0, 6 0)",
        "LINESTRING (1 1, 0 1)",
        "LINESTRING (0 1, 0 0)",
    ]


def signed_area(points):
    x, y = points.T
    return 0.5 * float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]))


def test_contours_of_a_ring_road():
    """Exteriors run clockwise, interiors counter-clockwise, and both stay whole where nothing cuts them."""
    ring = Polygon(shapely.box(-10, -10, 10, 10).exterior, [shapely.box(-4, -4, 4, 4).exterior])
    halves = [ring.intersection(shapely.box(-20, -20, 0, 20)), ring.intersection(shapely.box(0, -20, 20, 20))]
    outer, inner = contours((np.array(halves[:1], object), np.array(halves[1:], object)), (60, 30))
    assert outer.length == pytest.approx(80) and inner.length == pytest.approx(32)
    assert signed_area(shapely.get_coordinates(outer)) < 0 < signed_area(shapely.get_coordinates(inner))


def test_contours_are_cut_and_merged():
    """A road through the window leaves two lines, its ends cut 0.2 m inside the window; pieces are joined."""
    road = np.array([shapely.box(-30, -3, 30, 3)], object)
    lines = contours((road, np.empty(0, object)), (60, 30))
    assert len(lines) == 1 and lines[0].geom_type == "LineString" or len(lines) == 2
    ends = sorted(line.bounds for line in lines)
    np.testing.assert_allclose(ends, [(-29.8, -3, 29.8, -3), (-29.8, 3, 29.8, 3)])
    points = np.array([shapely.Point(0, 0)], object)  # a lane that only touches the window
    assert len(contours((road, points), (60, 30))) == 2
    assert len(contours((points, points), (60, 30))) == 0


def test_order_and_classes():
    location = road_map(
        dividers=[LineString([(-5, 0), (5, 0)]), LineString([(-5, 1), (5, 1)])],
        lanes=[LineString([(-5, 2), (5, 2)])],
        crossings=[LineString([(0, -3), (0, 3)])],
        roads=[shapely.box(-50, -6, 50, 6)],
    )
    lines = ego_vectors(location, 0.0, 0.0, 0.0, CONFIG)
    assert [line.kind for line in lines] == [0, 0, 0, 1, 2, 2]
    assert [line.points[0, 1] for line in lines[:3]] == [0, 1, 2]
    assert ego_vectors(location, 500.0, 0.0, 0.0, CONFIG) == []


def test_second_clip_splits_lines():
    zigzag = Line(np.array([[0.0, 14], [1, 16], [2, 14], [3, 14]]), 0)
    kept = clip_again([zigzag, Line(np.zeros((1, 2)), 1), Line(np.array([[0.0, 20], [1, 20]]), 2)], CONFIG)
    assert [line.kind for line in kept] == [0, 0]
    np.testing.assert_allclose(kept[0].points, [[0, 14], [0.5, 15]])
    np.testing.assert_allclose(kept[1].points, [[1.5, 15], [2, 14], [3, 14]])


def test_masks_and_map_vectors():
    """A line 10 m to the left, forward: column (15 - 10) / .15, rows from the front; ids 2k-1 and 2k."""
    lines = [Line(np.array([[-20.0, -10], [20, -10]]), 2), Line(np.array([[-30.0, 10], [29.9, 10]]), 0)]
    raster = rasterize(lines, CONFIG)
    assert raster.masks.shape == (2, 3, 400, 200) and raster.masks.dtype == np.uint8
    assert [sorted(set(np.unique(mask)) - {0}) for mask in raster.masks.reshape(6, 400, 200)] == [
        [1], [], [3], [2], [], [4],
    ]  # fmt: skip
    rows, columns = np.nonzero(raster.masks[0, 0])
    assert set(columns) == {199 - int(25 / 0.15)} and rows.min() == 0 and rows.max() == 399
    assert (raster.masks[1, 0] > 0).sum(axis=1).max() in (8, 9)
    np.testing.assert_allclose(raster.map_vectors[0].points, [[5 / 0.15, 400], [5 / 0.15, 0.1 / 0.15]])
    np.testing.assert_allclose(raster.metric_vectors[0].points, [[5, 60], [5, 0.1]])


def test_many_instances():
    """From the 128th instance on ids become 255, as upstream's; distinct ids number each class by itself."""
    lines = [Line(np.array([[x, -15.0], [x, 15.0]]), 0) for x in np.linspace(-29, 29, 120)]
    lines += [Line(np.array([[-30.0, y], [30.0, y]]), 2) for y in np.linspace(-14, 14, 40)]
    thin = rasterize(lines, CONFIG).masks[0]
    assert set(np.unique(thin[2])) == {0, *range(241, 256, 2)}  # instances 121 to 128, then all in one
    distinct = rasterize(lines, CONFIG, distinct_ids=True).masks
    assert set(np.unique(distinct[0, 0])) == set(range(121)) and set(np.unique(distinct[0, 2])) == set(range(41))
    assert ((distinct > 0) == (rasterize(lines, CONFIG).masks > 0)).all()
    few = lines[:100]
    assert (rasterize(few, CONFIG, True).masks == rasterize(few, CONFIG).masks).all()


def test_orientation():
    forward = np.array([[10.0, 5], [20, 6]])
    np.testing.assert_array_equal(orient(forward), forward[::-1])
    np.testing.assert_array_equal(orient(forward[::-1]), forward[::-1])
    across = np.array([[10.0, 5], [10.5, 6]])
    np.testing.assert_array_equal(orient(across), across[::-1])
    np.testing.assert_array_equal(orient(across[::-1]), across[::-1])


def area(a, b, c):
    return abs((b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])) / 2


def visvalingam(points, threshold):
    """Visvalingam and Whyatt (1993): drop the point of the smallest triangle while that is below the threshold.

    A neighbour of a dropped point whose triangle has become no larger than the dropped one goes next, the left first.
    """
    points = [tuple(point) for point in points]
    candidates: list[int] = []
    dropped = 0.0
    while len(points) > 2:
        areas = [math.inf, *map(area, points, points[1:], points[2:]), math.inf]
        lowest = candidates[0] if candidates else areas.index(min(areas))
        dropped = max(dropped, areas[lowest])
        if dropped >= threshold:
            break
        del points[lowest]
        neighbours = [k for k in (lowest - 1, lowest) if 0 < k < len(points) - 1]
        candidates = [k for k in neighbours if area(*points[k - 1 : k + 2]) <= dropped]
    return np.array(points)


@pytest.mark.parametrize("seed", range(8))
def test_pivots(seed):
    rng = np.random.default_rng(seed)
    pixels = np.cumsum(rng.normal(0, 8, (40, 2)), axis=0) + [100, 200]
    metres = orient((pixels * 0.15)[:, ::-1])
    want = visvalingam(metres, 2.0)[:30] / [60, 30]
    np.testing.assert_allclose(pivot_lines([Line(pixels, 2)], CONFIG)[0].points, want, rtol=0, atol=1e-12)
    assert len(pivot_lines([Line(pixels, 1)], CONFIG)[0].points) == 2  # a crossing keeps two points


def torch_chamfer(first, second):
    """torch.cdist in float32, with distances up to 0.05 counted as none."""
    distance = torch.cdist(torch.from_numpy(first).float(), torch.from_numpy(second).float())
    nearest = [distance.min(axis).values for axis in (2, 1)]
    return sum((side * (side > 0.05)).mean(-1) for side in nearest).numpy() / 2


def test_chamfer_rounds_as_torch():
    rng = np.random.default_rng(0)
    first = rng.uniform(0, 60, (50, 100, 2))
    second = first + rng.normal(0, 0.05, first.shape)
    np.testing.assert_allclose(_chamfer(first, second), torch_chamfer(first, second), rtol=0, atol=1e-5)


@pytest.mark.parametrize("degree", DEGREES)
def test_bezier_pieces(degree):
    """Curves pass within the tolerance, pieces share ends, and an exact curve needs one piece."""
    angle = np.linspace(0, 1.5 * np.pi, 40)
    line = np.stack([15 + 10 * np.cos(angle), 30 + 10 * np.sin(angle)], axis=1)
    control = control_points(line, PieceFitter(degree))
    assert (len(control) - 1) % degree == 0 and control[0, 1] <= control[-1, 1]
    assert {tuple(control[0]), tuple(control[-1])} == {tuple(line[0]), tuple(line[-1])}
    curves = [bernstein(degree) @ control[i : i + degree + 1] for i in range(0, len(control) - 1, degree)]
    distance = shapely.distance(shapely.points(np.concatenate(curves)), LineString(line))
    assert distance.mean() < 0.15
    straight = np.array([[1.0, 1], [2, 5], [3, 9]])
    assert len(control_points(straight, PieceFitter(degree))) == degree + 1
