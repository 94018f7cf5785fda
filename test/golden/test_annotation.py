"""The annotation converter against what upstream's wrote."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import rule

from pivotnet.annotation.compare import compare_annotations
from pivotnet.annotation.convert import Options
from pivotnet.annotation.format import lines_to_arrays, load_annotation
from pivotnet.annotation.runner import annotate

SMALL = Path(__file__).parent / "annotation"


@pytest.fixture(scope="module")
def small_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("small") / "nuscenes"
    shutil.copytree(SMALL / "nuscenes", root)
    return root


def test_small_recording(small_root):
    summary = annotate(small_root, workers=1, overwrite=True)
    assert summary.written == 8
    report = compare_annotations(summary.folder, SMALL / "upstream")
    assert report.failures() == []
    assert report.samples == 8
    assert sum(bool(difference.pixels) for difference in report.differences) <= 2


def test_bezier(small_root):
    folder = annotate(small_root, options=Options(bezier=True), workers=1, overwrite=True).folder
    with np.load(SMALL / "bezier.npz", allow_pickle=False) as recorded:
        for path in (SMALL / "upstream").glob("*.npz"):
            ours = load_annotation(folder / path.name).ctr_points
            for key, value in lines_to_arrays("ctr_points", ours).items():
                np.testing.assert_allclose(value, recorded[f"{path.stem}/{key}"], rtol=0, atol=1e-9)
    assert compare_annotations(folder, SMALL / "upstream").failures() != []  # they have no control points


def test_full_recording(tmp_path):
    for name in ("nuscenes", "npz"):
        with tarfile.open(rule.recordings() / f"{name}.tar.gz") as archive:
            archive.extractall(tmp_path)
    summary = annotate(tmp_path / "nuscenes", workers=2)
    assert summary.written == 24
    report = compare_annotations(summary.folder, tmp_path / "npz")
    assert report.failures() == []
    assert report.samples == 24
    assert sum(bool(difference.pixels) for difference in report.differences) <= 6
