"""The converter's steps against independent formulas and the packages that upstream uses.

Whole samples are compared with upstream's in test/golden.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from shapely.geometry import LineString
from visvalingamwyatt import Simplifier

from pivotnet.annotation.tables import rotation_matrices, split_of_scene, yaw_degrees
from pivotnet.annotation.vectors import AREA_THRESHOLD, line_parts, simplify
from pivotnet.errors import PivotNetError


def walk(rng, count):
    """Points [count, 2] within some 60 m of the origin; every other walk crosses itself."""
    angle = np.cumsum(rng.normal(0, 0.8, count))
    steps = np.stack([np.cos(angle), np.sin(angle)], axis=1) * rng.uniform(0.5, 9, (count, 1))
    return np.cumsum(steps, axis=0) + rng.uniform(-40, 40, 2)


def test_only_lines_are_left():
    """A clip can leave points and collections, on which upstream stops."""
    window = shapely.box(0, 0, 10, 10)
    touching = LineString([(-1, 1), (1, -1)]).intersection(window)
    both = LineString([(-1, 1), (1, -1), (5, -1), (5, 5)]).intersection(window)
    assert touching.geom_type == "Point" and both.geom_type == "GeometryCollection"
    lines, owners = line_parts(np.array([touching, both, LineString()], object))
    assert [line.wkt for line in lines] == ["LINESTRING (5 0, 5 5)"] and owners.tolist() == [1]


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
