"""Result files and vector maps: what is written is read, and what cannot be trusted is reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pivotnet.annotation.npz import is_whole
from pivotnet.config import MapConfig
from pivotnet.errors import PivotNetError
from pivotnet.evaluation import results
from pivotnet.evaluation.postprocess import draw_mask
from pivotnet.evaluation.results import MapInstances, load_result, save_result
from pivotnet.evaluation.vector_map import predicted_lines, save_vector_map

MAP = MapConfig()


def some_result(count: int = 4) -> tuple[np.ndarray, MapInstances]:
    rng = np.random.default_rng(count)
    lines = [(rng.random((rng.integers(2, 9), 2)) * [400, 200]).astype(np.float32) for _ in range(count)]
    labels = np.sort(rng.integers(0, 3, count)).astype(np.int64)
    instances = MapInstances(lines, rng.random(count).astype(np.float32), labels)
    return draw_mask(instances, MAP), instances


@pytest.mark.parametrize("count", [0, 1, 300])
def test_what_is_written_is_read(tmp_path: Path, count: int) -> None:
    """test/golden reads upstream's files."""
    path = tmp_path / "token.npz"
    mask, instances = some_result(count)

    save_result(path, mask, instances)

    found_mask, found = load_result(path)
    assert len(found) == count and found_mask.dtype == mask.dtype
    for one, other in zip([found_mask, found.scores, found.labels], [mask, instances.scores, instances.labels]):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(found.points, instances.points):
        np.testing.assert_array_equal(one, other)
    with np.load(path, allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays.files)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_counts_as_missing(tmp_path: Path, share: float) -> None:
    path = results.result_path(tmp_path, "token")
    save_result(path, *some_result())
    whole = path.read_bytes()
    assert is_whole(path)

    path.write_bytes(whole[: int(len(whole) * share)])

    assert not is_whole(path)
    with pytest.raises(PivotNetError, match="token.npz"):
        load_result(path)


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token.npz"
    mask, instances = some_result(2)
    save_result(path, mask, instances)
    with np.load(path) as arrays:
        whole = dict(arrays)
    offsets, points = whole["dt_res.offsets"], whole["dt_res.points"]
    for change, reason in (
        ({"dt_mask": np.where(mask == 2, 3, mask)}, "id 3, and there are 2 instances"),
        ({"dt_mask": mask[:, :4]}, r"dt_mask has shape \(3, 4, 200\), not \(3, 400, 200\)"),
        ({"dt_mask": np.full(mask.shape, 2**31, np.int64)}, "dt_mask has the value 2147483648, which is not from 0"),
        ({"dt_mask": np.full(mask.shape, -1)}, "dt_mask has the value -1"),
        ({"dt_mask": np.ones_like(mask)}, "dt_mask covers 240000 pixels, more than 120000"),
        ({"dt_mask": mask.astype(float)}, "dt_mask is of type float64"),
        ({"dt_res.labels": np.array([0, 3])}, "dt_res.labels has the value 3"),
        ({"dt_res.labels": np.array([0])}, "dt_res.labels has 1 instances, but dt_res.scores has 2"),
        ({"dt_res.scores": np.array([np.nan, 1])}, "dt_res.scores has the value nan"),
        ({"dt_res.offsets": offsets[::-1]}, "3 offsets, which do not cut"),
        ({"dt_res.points": points * 1e30}, "dt_res.points has the value"),
        ({"dt_res.points": points.T}, "dt_res.points has shape"),
    ):
        np.savez(path, **{**whole, **change})
        with pytest.raises(PivotNetError, match=rf"token\.npz .*{reason}"):
            load_result(path)
    np.savez(path, instance_mask=mask)
    with pytest.raises(PivotNetError, match="lacks dt_mask, dt_res.points"):
        load_result(path)


def test_a_folder_belongs_to_one_checkpoint(tmp_path: Path) -> None:
    first, same, second = (tmp_path / f"{name}.pth" for name in ("first", "same", "second"))
    for path, content in ((first, "1"), (same, "1"), (second, "2")):
        path.write_text(content)
    folder = tmp_path / "runs" / "results"

    results.open_folder(folder, first, "smoke")
    save_result(folder / "a.npz", *some_result())
    results.open_folder(folder, same, "smoke")

    assert results.read_run(folder)["preset"] == "smoke"
    with pytest.raises(PivotNetError, match="holds results of .*first.pth, not of .*second.pth: choose another --res"):
        results.open_folder(folder, second, "smoke")
    (folder / "run.json").write_text("{")
    with pytest.raises(PivotNetError, match="run.json .*truncated or no JSON.*delete the folder"):
        results.open_folder(folder, first, "smoke")
    (folder / "run.json").unlink()
    with pytest.raises(PivotNetError, match="holds results of an unknown run"):
        results.open_folder(folder, first, "smoke")


def test_vector_map(tmp_path: Path) -> None:
    lines = [np.array([[0.0, 100.0], [400.0, 101.0]], np.float32), np.array([[10.0, 20.0], [10.0, 180.0]], np.float32)]
    instances = MapInstances(lines, np.array([0.75, 0.5], np.float32), np.array([0, 1]))

    save_vector_map(tmp_path / "abc.json", "abc", predicted_lines(instances, MAP), "run/best.pth", MAP)

    assert json.loads((tmp_path / "abc.json").read_text()) == {
        "format": "pivotnet-vector-map",
        "version": 1,
        "token": "abc",
        "checkpoint": "run/best.pth",
        "range": {"x": [-30.0, 30.0], "y": [-15.0, 15.0]},
        "instances": [
            {"class": "divider", "score": 0.75, "points": [[30.0, 0.0], [-30.0, -0.15]]},
            {"class": "ped_crossing", "score": 0.5, "points": [[28.5, 12.0], [28.5, -12.0]]},
        ],
    }
