"""Sample files and the comparison of folders of them."""

from __future__ import annotations

import dataclasses
import resource

import numpy as np
import pytest

from pivotnet.annotation.compare import Difference, Report, compare_annotations, compare_samples
from pivotnet.annotation.format import Annotation, Line, load_annotation, pad_pivots, save_annotation, to_upstream
from pivotnet.config import CAMERAS
from pivotnet.errors import PivotNetError


def random_lines(rng, counts, labels):
    return [Line(rng.random((count, 2)), label) for count, label in zip(counts, labels)]


def sample(seed=0, lines=True) -> Annotation:
    rng = np.random.default_rng(seed)
    points, lengths = pad_pivots(random_lines(rng, (2, 10, 2, 30), (0, 0, 1, 2)) if lines else [])
    instance = rng.integers(0, 5, (3, 400, 200)).astype(np.uint8)
    return Annotation(
        image_paths=[f"samples/{camera}/{seed}.jpg" for camera in CAMERAS],
        trans=rng.random((6, 3)),
        rots=rng.random((6, 3, 3)),
        intrins=rng.random((6, 3, 3)),
        semantic_mask=(instance > 0).astype(np.uint8),
        instance_mask=instance,
        instance_mask8=rng.integers(0, 5, (3, 400, 200)).astype(np.uint8),
        ego_vectors=random_lines(rng, (1, 4, 0, 7), (0, 0, 1, 2)) if lines else [],
        map_vectors=random_lines(rng, (4, 7), (0, 2)) if lines else [],
        ctr_points=random_lines(rng, (3, 4), (0, 2)) if lines else [],
        pivot_points=points,
        pivot_lengths=lengths,
    )


@pytest.mark.parametrize("lines", [True, False])
def test_what_is_saved_is_loaded(tmp_path, lines):
    annotation = sample(lines=lines)
    for name in "ab":
        save_annotation(tmp_path / f"{name}.npz", annotation)
    loaded = load_annotation(tmp_path / "a.npz")
    assert compare_samples("x", annotation, loaded) == Difference("x")
    for label, points in annotation.pivot_points.items():
        np.testing.assert_array_equal(loaded.pivot_points[label], points)
        np.testing.assert_array_equal(loaded.pivot_lengths[label], annotation.pivot_lengths[label])
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
    assert compare_samples("x", annotation, load_annotation(tmp_path / "old.npz")) == Difference("x")


def test_damaged_and_foreign_files(tmp_path):
    save_annotation(tmp_path / "a.npz", sample())
    with np.load(tmp_path / "a.npz") as arrays:
        content = dict(arrays)
    for change in (
        {"map_vectors.offsets": np.array([0, 4, 12])},
        {"map_vectors.offsets": np.array([0, 12, 11])},
        {"map_vectors.types": np.zeros(9, int)},
        {"pivot_pts.points": np.zeros((44, 3))},
    ):
        np.savez(tmp_path / "b.npz", **{**content, **change})
        with pytest.raises(PivotNetError, match=r"b\.npz is no annotated sample.*annotate again"):
            load_annotation(tmp_path / "b.npz")
    np.savez(tmp_path / "b.npz", dt_mask=np.zeros(3))
    with pytest.raises(PivotNetError, match="no annotated sample"):
        load_annotation(tmp_path / "b.npz")


def test_a_full_disk_leaves_the_old_file(tmp_path):
    save_annotation(tmp_path / "a.npz", sample(1))
    before = (tmp_path / "a.npz").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(PivotNetError, match="cannot write"):
            save_annotation(tmp_path / "a.npz", sample(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "a.npz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_folders_are_compared(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        for name in "abc":
            save_annotation(folder / f"{name}.npz", sample(ord(name)))
    report = compare_annotations(first, second)
    assert report.samples == 3 and report.failures(0, 0) == []

    changed = sample(ord("a"))
    changed.map_vectors[1].points[0, 0] += 1e-6
    changed.instance_mask[0, 0, :17] += 1
    save_annotation(second / "a.npz", changed)
    moved = sample(ord("b"))
    moved.ego_vectors.pop()
    moved.map_vectors[0].label = 1
    save_annotation(second / "b.npz", moved)
    (second / "c.npz").rename(second / "d.npz")
    report = compare_annotations(first, second)
    assert report.failures() == [
        "c: only in the first folder",
        "d: only in the second folder",
        "a: numbers differ by 1e-06, more than 1e-09",
        "a: pixels differ {'instance_mask': 17}, more than 16",
        "b: ego_vectors.points is float64[12, 2] and float64[5, 2]",
        "b: ego_vectors.offsets is int64[5] and int64[4]",
        "b: ego_vectors.types is int64[4] and int64[3]",
        "b: map_vectors.types differs in 1 of 2 elements",
    ]
    assert len(report.failures(points=1e-5, pixels=17)) == 6
    with pytest.raises(PivotNetError, match="holds no annotated samples"):
        compare_annotations(first, tmp_path)


def test_numbers_that_are_none_are_a_failure():
    broken = dataclasses.replace(sample(), trans=np.full((6, 3), np.nan), rots=np.zeros((6, 3)))
    difference = compare_samples("x", sample(), broken)
    assert np.isnan(difference.largest)
    assert difference.structure == ["rots is float64[6, 3, 3] and float64[6, 3]"]
    assert len(Report([], [difference]).failures(1, 1)) == 2
