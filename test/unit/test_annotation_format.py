"""Sample files: ours and upstream's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pivotnet.annotation.format import (
    Annotation,
    Line,
    load_annotation,
    pad_pivots,
    save_annotation,
    to_arrays,
    to_upstream,
)
from pivotnet.config import CAMERAS
from pivotnet.errors import PivotNetError


def random_lines(rng, counts, labels):
    return [Line(rng.random((count, 2)), label) for count, label in zip(counts, labels)]


def sample(seed=0, lines=True):
    rng = np.random.default_rng(seed)
    points, lengths = pad_pivots(random_lines(rng, (2, 10, 2, 30), (0, 0, 1, 2)) if lines else [])
    instance = rng.integers(0, 5, (3, 400, 200)).astype(np.uint8)
    return Annotation(
        image_paths=[f"samples/{camera}/{seed}.jpg" for camera in CAMERAS],
        trans=rng.random((6, 3)),
        rots=Rotation.random(6, random_state=seed).as_matrix(),
        intrins=np.array([[1200, 0, 800], [0, 1200, 450], [0, 0, 1]]) + rng.random((6, 3, 3)),
        semantic_mask=(instance > 0).astype(np.uint8),
        instance_mask=instance,
        instance_mask8=rng.integers(0, 5, (3, 400, 200)).astype(np.uint8),
        ego_vectors=random_lines(rng, (1, 4, 0, 7), (0, 0, 1, 2)) if lines else [],
        map_vectors=random_lines(rng, (4, 7), (0, 2)) if lines else [],
        ctr_points=random_lines(rng, (3, 4), (0, 2)) if lines else [],
        pivot_points=points,
        pivot_lengths=lengths,
    )


def assert_equal(first, second):
    ours, theirs = to_arrays(first), to_arrays(second)
    for key, array in ours.items():
        np.testing.assert_array_equal(array, theirs[key])
        assert array.dtype == theirs[key].dtype
    for label, points in first.pivot_points.items():
        np.testing.assert_array_equal(points, second.pivot_points[label])


@pytest.mark.parametrize("lines", [True, False])
def test_what_is_saved_is_loaded(tmp_path, lines):
    annotation = sample(lines=lines)
    for name in "ab":
        save_annotation(tmp_path / f"{name}.npz", annotation)
    loaded = load_annotation(tmp_path / "a.npz")
    assert_equal(annotation, loaded)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:  # anybody can read it
        assert {"instance_mask8", "pivot_pts.points", "ego_vectors.offsets"} <= set(arrays.files)


@pytest.mark.parametrize("lines", [True, False])
def test_upstreams_view_and_upstreams_file(tmp_path, lines):
    """to_upstream gives what upstream reads from its files; a file written from it as upstream does is loaded."""
    annotation = sample(lines=lines)
    item = to_upstream(annotation)
    assert [len(item["pivot_pts"][label]) for label in range(3)] == ([2, 1, 1] if lines else [0, 0, 0])
    assert all(item["pivot_pts"][label].shape == (0,) for label in range(3)) != lines
    np.savez_compressed(tmp_path / "old.npz", **item)
    assert_equal(annotation, load_annotation(tmp_path / "old.npz"))


def test_damaged_and_foreign_files(tmp_path):
    save_annotation(tmp_path / "a.npz", sample())
    with np.load(tmp_path / "a.npz") as arrays:
        content = dict(arrays)
    points = content["map_vectors.points"]
    for key, value, reason in (
        ("map_vectors.offsets", np.array([0, 4, 12]), "offsets, which do not cut"),
        ("map_vectors.offsets", np.array([0, 12, 11]), "offsets, which do not cut"),
        ("map_vectors.types", np.zeros(9, int), "offsets, which do not cut"),
        ("map_vectors.types", np.array([0, 3]), "map_vectors.types has the value 3, which is not from 0 to 2"),
        ("pivot_pts.points", np.zeros((44, 3)), r"pivot_pts.points has shape \(44, 3\), not \(points of"),
        ("pivot_pts.types", np.array([0, 1, 1, 2]), "10 pivot points in a line of ped_crossing, more than 2"),
        ("map_vectors.points", np.full(points.shape, np.nan), "map_vectors.points has the value nan"),
        ("map_vectors.points", np.full(points.shape, 1e308), "map_vectors.points has the value 1e.308"),
        ("instance_mask", content["instance_mask"].astype(np.int64), "instance_mask is of type int64"),
        ("semantic_mask", content["instance_mask"] + 2, "semantic_mask has the value"),
        ("rots", np.ones((6, 3, 3)), "no rotation"),
        ("intrins", np.zeros((6, 3, 3)), "singular"),
        ("intrins", np.full((6, 3, 3), np.inf), "intrins has the value inf"),
        ("trans", np.zeros((6, 3, 1)), r"trans has shape \(6, 3, 1\)"),
        *(
            (
                "image_paths",
                np.array([*content["image_paths"][:5], path]),
                r"image_paths\[5\] is .* path below the data",
            )
            for path in ("/etc/x.jpg", "samples/CAM_BACK_RIGHT/../../../x.jpg", "a.jpg", "samples//a.jpg", "a/b\n.jpg")
        ),
        ("image_paths", content["image_paths"][[0, 1, 2, 3, 4, 4]], "no image of CAM_BACK_RIGHT"),
    ):
        np.savez(tmp_path / "b.npz", **{**content, key: value})
        with pytest.raises(PivotNetError, match=rf"b\.npz is .*{reason}.* again$"):
            load_annotation(tmp_path / "b.npz")
    np.savez(tmp_path / "b.npz", dt_mask=np.zeros(3))
    with pytest.raises(PivotNetError, match=r"b\.npz .*lacks image_paths, trans"):
        load_annotation(tmp_path / "b.npz")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("pivot_length", {0: [2, 11], 1: [2], 2: [30]}, "pivot_length .* does not fit 2 lines of up to 10"),
        ("pivot_length", {0: [2], 1: [2], 2: [30]}, "pivot_length .* does not fit 2 lines"),
        ("pivot_pts", {0: [[1.0]], 1: [], 2: []}, "reshape"),
        ("pivot_pts", {1: []}, "KeyError"),
        ("pivot_pts", 5, "not subscriptable"),
        ("ego_vectors", [{"pts": [[1.0, 2.0]], "type": 7}], "ego_vectors.types has the value 7"),
        ("ego_vectors", [{"pts": [[1.0, float("inf")]], "type": 0}], "ego_vectors.points has the value inf"),
        ("ego_vectors", [{"pts": [[1.0, 2.0]]}], "KeyError: 'type'"),
    ],
)
def test_upstreams_damaged_files(tmp_path, key, value, reason):
    np.savez(tmp_path / "b.npz", **{**to_upstream(sample()), key: np.array(value, object)})
    with pytest.raises(PivotNetError, match=rf"b\.npz is no annotated sample.*{reason}.* again$"):
        load_annotation(tmp_path / "b.npz")
