"""Result files: what is written is read, and what cannot be trusted is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pivotnet.config import MapConfig
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.instances import MapInstances
from pivotnet.evaluation.postprocess import draw_mask
from pivotnet.evaluation.results import (
    SampleResult,
    describe_run,
    has_result,
    load_drawn,
    load_result,
    open_folder,
    read_run,
    require_results,
    result_path,
    save_result,
)

MAP = MapConfig()


def some_result(count: int = 4) -> SampleResult:
    rng = np.random.default_rng(count)
    lines = [(rng.random((rng.integers(2, 9), 2)) * [400, 200]).astype(np.float32) for _ in range(count)]
    labels = np.sort(rng.integers(0, 3, count)).astype(np.int64)
    instances = MapInstances(lines, rng.random(count).astype(np.float32), labels)
    return SampleResult(draw_mask(instances, MAP), instances)


def assert_same(first: SampleResult, second: SampleResult) -> None:
    np.testing.assert_array_equal(first.mask, second.mask)
    assert first.mask.dtype == second.mask.dtype
    assert len(first.instances) == len(second.instances)
    for one, other in zip(first.instances.points, second.instances.points):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(first.instances.scores, second.instances.scores)
    np.testing.assert_array_equal(first.instances.labels, second.instances.labels)


def assert_drawn(drawn: tuple, result: SampleResult) -> None:
    np.testing.assert_array_equal(drawn[0], result.mask)
    np.testing.assert_array_equal(drawn[1], result.instances.scores)


@pytest.mark.parametrize("count", [0, 1, 4, 300])
def test_what_is_written_is_read_and_holds_no_pickle(tmp_path: Path, count: int) -> None:
    path = tmp_path / "token.npz"
    result = some_result(count)

    save_result(path, result)

    with np.load(path, allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays.files)
    assert_same(load_result(path), result)
    assert_drawn(load_drawn(path), result)


def test_upstreams_pickled_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "token.npz"
    result = some_result()
    content = {
        "map": [None, *result.instances.points],
        "confidence_level": [-1, *result.instances.scores.tolist()],
        "pred_label": [0, *(result.instances.labels + 1).tolist()],
    }
    np.savez_compressed(path, dt_mask=result.mask, dt_res=content)  # type: ignore[arg-type]

    assert_same(load_result(path), result)
    assert_drawn(load_drawn(path), result)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_told_and_counts_as_missing(tmp_path: Path, share: float) -> None:
    path = result_path(tmp_path, "token")
    save_result(path, some_result())
    whole = path.read_bytes()
    assert has_result(tmp_path, "token")

    path.write_bytes(whole[: int(len(whole) * share)])

    assert not has_result(tmp_path, "token")
    with pytest.raises(PivotNetError, match="token.npz"):
        load_result(path)


def test_an_id_without_instance_is_told(tmp_path: Path) -> None:
    path = tmp_path / "token.npz"
    result = some_result(2)
    result.mask[0, 0, 0] = 3

    save_result(path, result)

    for load in (load_result, load_drawn):
        with pytest.raises(PivotNetError, match="id 3, and there are 2 instances"):
            load(path)


def test_another_kind_of_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "token.npz"
    np.savez(path, instance_mask=np.zeros((3, 4, 4)))

    for load in (load_result, load_drawn):
        with pytest.raises(PivotNetError, match="no result file"):
            load(path)


def test_missing_results_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    save_result(result_path(tmp_path, "a"), some_result())

    with pytest.raises(PivotNetError, match="2 of 3 samples have no result file .*the first is b"):
        require_results(tmp_path, ["a", "b", "c"])
    with pytest.raises(PivotNetError, match="there is no folder"):
        require_results(tmp_path / "none", ["a"])


def test_a_folder_belongs_to_one_checkpoint(tmp_path: Path) -> None:
    first, second = tmp_path / "first.pth", tmp_path / "second.pth"
    first.write_bytes(b"one")
    second.write_bytes(b"two")
    folder = tmp_path / "runs" / "results"

    open_folder(folder, describe_run(first, "smoke"))
    save_result(result_path(folder, "a"), some_result())
    open_folder(folder, describe_run(first, "smoke"))

    assert read_run(folder)["preset"] == "smoke"
    with pytest.raises(PivotNetError, match="holds results of .*first.pth, not of .*second.pth"):
        open_folder(folder, describe_run(second, "smoke"))


def test_results_of_unknown_origin_are_not_mixed_with(tmp_path: Path) -> None:
    save_result(result_path(tmp_path, "a"), some_result())
    checkpoint = tmp_path / "ckpt.pth"
    checkpoint.write_bytes(b"one")

    with pytest.raises(PivotNetError, match="an unknown run"):
        open_folder(tmp_path, describe_run(checkpoint, "smoke"))


def test_a_missing_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(PivotNetError, match="cannot read the checkpoint .*none.pth"):
        describe_run(tmp_path / "none.pth", "smoke")


def test_a_damaged_run_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")

    with pytest.raises(PivotNetError, match="run.json is damaged"):
        read_run(tmp_path)
