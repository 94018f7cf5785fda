"""Result files: what is written is read, and what cannot be trusted is reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pivotnet.config import MapConfig
from pivotnet.errors import PivotNetError
from pivotnet.evaluation import results
from pivotnet.evaluation.postprocess import draw_mask
from pivotnet.evaluation.results import MapInstances, load_result, save_result


def some_result(count: int = 4) -> tuple[np.ndarray, MapInstances]:
    rng = np.random.default_rng(count)
    lines = [(rng.random((rng.integers(2, 9), 2)) * [400, 200]).astype(np.float32) for _ in range(count)]
    labels = np.sort(rng.integers(0, 3, count)).astype(np.int64)
    instances = MapInstances(lines, rng.random(count).astype(np.float32), labels)
    return draw_mask(instances, MapConfig()), instances


def save_as_upstream(path: Path, mask: np.ndarray, instances: MapInstances) -> None:
    content = {
        "map": [None, *instances.points],
        "confidence_level": [-1, *instances.scores.tolist()],
        "pred_label": [0, *(instances.labels + 1).tolist()],
    }
    np.savez_compressed(path, dt_mask=mask, dt_res=content)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("save", "count"), [*((save_result, count) for count in (0, 1, 4, 300)), (save_as_upstream, 4)]
)
def test_what_is_written_is_read(tmp_path: Path, save, count: int) -> None:
    path = tmp_path / "token.npz"
    mask, instances = some_result(count)

    save(path, mask, instances)

    found_mask, found = load_result(path)
    assert len(found) == count and found_mask.dtype == mask.dtype
    for one, other in zip([found_mask, found.scores, found.labels], [mask, instances.scores, instances.labels]):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(found.points, instances.points):
        np.testing.assert_array_equal(one, other)
    if save is save_result:
        with np.load(path, allow_pickle=False) as arrays:
            assert all(arrays[name].dtype != object for name in arrays.files)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_counts_as_missing(tmp_path: Path, share: float) -> None:
    path = results.result_path(tmp_path, "token")
    save_result(path, *some_result())
    whole = path.read_bytes()
    assert results.has_result(tmp_path, "token")

    path.write_bytes(whole[: int(len(whole) * share)])

    assert not results.has_result(tmp_path, "token")
    with pytest.raises(PivotNetError, match="token.npz"):
        load_result(path)


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token.npz"
    mask, instances = some_result(2)
    mask[0, 0, 0] = 3
    save_result(path, mask, instances)
    with pytest.raises(PivotNetError, match="id 3, and there are 2 instances"):
        load_result(path)
    np.savez(path, instance_mask=np.zeros((3, 4, 4)))
    with pytest.raises(PivotNetError, match="no result file"):
        load_result(path)


def test_missing_results_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    save_result(tmp_path / "a.npz", *some_result())

    with pytest.raises(PivotNetError, match="2 of 3 samples have no picture in .*the first is b.: get one"):
        results.require_files(tmp_path, ["a", "b", "c"], "picture", "get one")
    with pytest.raises(PivotNetError, match="none, which does not exist"):
        results.require_files(tmp_path / "none", ["a"], "picture", "get one")


def test_a_folder_belongs_to_one_checkpoint(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / f"{name}.pth").write_text(name)
    first, second = (results.describe_run(tmp_path / f"{name}.pth", "smoke") for name in ("first", "second"))
    folder = tmp_path / "runs" / "results"

    results.open_folder(folder, first)
    save_result(folder / "a.npz", *some_result())
    results.open_folder(folder, first)

    assert results.read_run(folder)["preset"] == "smoke"
    with pytest.raises(PivotNetError, match="holds results of .*first.pth, not of .*second.pth"):
        results.open_folder(folder, second)
    (folder / "run.json").unlink()
    with pytest.raises(PivotNetError, match="holds results of an unknown run"):
        results.open_folder(folder, first)


@pytest.mark.parametrize(("content", "message"), [("{", "truncated or no JSON"), ("[]", "holds no object")])
def test_a_damaged_run_file_is_reported(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "run.json").write_text(content)

    with pytest.raises(PivotNetError, match=f"run.json .*{message}.*delete the folder"):
        results.read_run(tmp_path)


def test_a_missing_checkpoint_is_reported(tmp_path: Path) -> None:
    with pytest.raises(PivotNetError, match="cannot read the checkpoint .*none.pth"):
        results.describe_run(tmp_path / "none.pth", "smoke")
