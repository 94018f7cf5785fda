"""``pivotnet evaluate``, ``predict`` and ``render`` on a small tree, and their errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_samples import one_divider, write_annotation, write_images, write_split

from pivotnet.annotation.format import FOLDER
from pivotnet.cli import main
from pivotnet.config import MapConfig, preset
from pivotnet.evaluation.instances import MapInstances
from pivotnet.evaluation.postprocess import draw_mask
from pivotnet.evaluation.results import SampleResult, result_path, save_result
from pivotnet.model.pivotnet import PivotNet

TOKENS = ["aa", "bb", "cc"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The networks are small: threads would wait for each other, for seconds where other processes run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = preset("smoke")
    torch.manual_seed(0)
    model = PivotNet(config.model, config.map)
    path = tmp_path_factory.mktemp("checkpoint") / "some.pth"
    torch.save({"model_state": model.state_dict(), "pivotnet": {"config": config.to_dict()}}, path)
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nuscenes")
    for index, token in enumerate(TOKENS):
        annotation = one_divider(token, 60 + 20 * index)
        write_annotation(folder, token, annotation)
        write_images(folder, annotation)
    write_split(folder, "val", TOKENS)
    write_split(folder, "train", ["dd"])
    return folder


@pytest.fixture
def arguments(checkpoint: Path, root: Path) -> list[str]:
    options = {"--ckpt": checkpoint, "--data-root": root, "--workers": 0, "--device": "cpu"}
    return [str(part) for pair in options.items() for part in pair]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Result files of all samples, without any line."""
    nothing = MapInstances([], np.zeros(0, np.float32), np.zeros(0, np.int64))
    folder = tmp_path / "results"
    folder.mkdir()
    for token in TOKENS:
        save_result(result_path(folder, token), SampleResult(draw_mask(nothing, MapConfig()), nothing))
    return folder


def fails(capsys: pytest.CaptureFixture, *command: object) -> str:
    """The one line that a command with bad input says."""
    assert main([str(part) for part in command]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1
    return text.strip()


def test_evaluate_keeps_results_of_the_same_checkpoint(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture
) -> None:
    results = tmp_path / "new"
    command = ["evaluate", *arguments, "--results", str(results), "--batch-size", "2"]

    assert main(command) == 0
    first = capsys.readouterr().out
    (results / "bb.npz").write_bytes(b"PK")  # as if truncated by a full disk
    kept = {token: (results / f"{token}.npz").stat().st_mtime_ns for token in TOKENS}
    assert main(command) == 0
    second = capsys.readouterr().out

    assert "mAP@HARD" in first and "over 3 samples" in first
    assert second == f"2 of 3 samples have results in {results}; predicting the rest\n{first}"
    changed = [token for token in TOKENS if (results / f"{token}.npz").stat().st_mtime_ns != kept[token]]
    assert changed == ["bb"]
    written = json.loads((results / "ap_val.json").read_text())
    assert (written["split"], written["preset"], written["samples"]) == ("val", "smoke", 3)


def test_evaluate_refuses_results_of_another_checkpoint(
    tmp_path: Path, arguments: list[str], checkpoint: Path, capsys: pytest.CaptureFixture
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    (results / "run.json").write_text('{"checkpoint": "other.pth", "fingerprint": "f"}')

    message = fails(capsys, "evaluate", *arguments, "--results", results)

    assert "holds results of other.pth" in message and "choose another --results" in message
    assert sorted(path.name for path in results.iterdir()) == ["run.json"]


def test_predict_and_render(tmp_path: Path, arguments: list[str], root: Path, capsys: pytest.CaptureFixture) -> None:
    maps, pictures = tmp_path / "maps", tmp_path / "pictures"

    assert main(["predict", *arguments, "--tokens", "cc", "--output", str(maps)]) == 0
    assert (
        main(["render", "--data-root", str(root), "--tokens", "cc", "--results", str(maps), "--output", str(pictures)])
        == 0
    )

    assert [path.name for path in maps.iterdir()] == ["cc.json"]
    assert json.loads((maps / "cc.json").read_text())["token"] == "cc"
    assert [path.name for path in pictures.iterdir()] == ["cc.png"]
    assert capsys.readouterr().out == f"1 vector maps -> {maps}\n1 pictures -> {pictures}\n"


def test_render_draws_at_most_limit_samples_over_the_split(tmp_path: Path, root: Path) -> None:
    assert main(["render", "--data-root", str(root), "--limit", "2", "--output", str(tmp_path)]) == 0

    assert sorted(path.name for path in tmp_path.iterdir()) == ["aa.png", "cc.png"]


def test_two_ranks_predict_each_its_share(tmp_path: Path, arguments: list[str]) -> None:
    results = tmp_path / "results"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}

    run = subprocess.run(
        [*launcher, "-m", "pivotnet", "evaluate", *arguments, "--results", str(results)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    assert run.stdout.count("mAP@HARD") == 1
    assert sorted(path.stem for path in results.glob("*.npz")) == TOKENS


def test_errors_before_anything_is_predicted(
    tmp_path: Path, arguments: list[str], root: Path, checkpoint: Path, capsys: pytest.CaptureFixture
) -> None:
    none = tmp_path / "none"
    data = ["--data-root", root]
    assert "give --ckpt to predict" in fails(capsys, "evaluate", *data)
    assert "none does not exist" in fails(capsys, "evaluate", *data, "--ckpt", none, "--device", "cpu")
    assert "no nuScenes tree" in fails(capsys, "evaluate", "--ckpt", checkpoint, "--data-root", tmp_path)
    assert "1 of 2 tokens are in no split" in fails(capsys, "predict", *arguments, "--tokens", "aa", "zz")
    assert "run pivotnet annotate" in fails(capsys, "evaluate", *arguments, "--split", "train")
    assert "there is no folder" in fails(capsys, "evaluate", *data, "--results", none)
    assert "--batch-size is 0" in fails(capsys, "evaluate", *arguments, "--batch-size", "0")
    assert "no prediction of sample aa" in fails(
        capsys, "render", *data, "--results", none, "--output", tmp_path / "pictures"
    )
    assert "--limit is 0" in fails(capsys, "render", *data, "--limit", "0", "--output", tmp_path / "pictures")


def test_a_file_in_the_way_of_a_folder_is_told(
    tmp_path: Path, arguments: list[str], root: Path, capsys: pytest.CaptureFixture
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("")

    assert "cannot make" in fails(capsys, "predict", *arguments, "--output", taken)
    assert "cannot make" in fails(capsys, "render", "--data-root", root, "--output", taken)
    assert "cannot make" in fails(capsys, "evaluate", *arguments, "--results", taken)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_truncated_result_file_is_told(
    results: Path, root: Path, workers: int, capsys: pytest.CaptureFixture
) -> None:
    whole = (results / "cc.npz").read_bytes()
    (results / "cc.npz").write_bytes(whole[: len(whole) // 2])

    message = fails(capsys, "evaluate", "--data-root", root, "--results", results, "--workers", workers)

    assert "cc.npz is damaged" in message


def test_a_list_of_tokens_in_a_file(tmp_path: Path, results: Path, root: Path, capsys: pytest.CaptureFixture) -> None:
    listed, empty = tmp_path / "list.txt", tmp_path / "empty.txt"
    listed.write_text("bb.npz\n\n")
    empty.write_text("\n")
    command = ["evaluate", "--data-root", str(root), "--results", str(results), "--tokens"]

    assert main([*command, str(listed)]) == 0
    assert f"over 1 samples -> {results / 'ap_tokens.json'}" in capsys.readouterr().out
    assert "lists no tokens" in fails(capsys, *command, empty)


def test_a_missing_annotation_is_told_by_every_command(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture
) -> None:
    path = root / FOLDER / "bb.npz"
    content = path.read_bytes()
    path.unlink()
    try:
        for command in (["evaluate", "--results", tmp_path], ["render", "--output", tmp_path / "pictures"]):
            message = fails(capsys, *command, "--data-root", root)
            assert "1 of 3 samples have no annotation" in message and "pivotnet annotate -d" in message
    finally:
        path.write_bytes(content)
