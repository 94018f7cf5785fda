"""The training loop through the command, on a network small enough for seconds."""

import dataclasses
import json
import math
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Callable

import pytest
import torch
from support.commands import fails, wait_for
from support.made_data import make_data

from pivotnet import cli, config
from pivotnet.annotation.format import FOLDER, load_annotation, pad_pivots, save_annotation
from pivotnet.checkpoint import NAME, list_checkpoints, read_checkpoint
from pivotnet.distributed import Ranks
from pivotnet.errors import PivotNetError
from pivotnet.files import lock_output
from pivotnet.training import job, loop
from pivotnet.training.records import read_records
from pivotnet.training.summary import read_summary

SMOKE = config.PRESETS["smoke"]
SMALL = {"image_size": (64, 96), "hidden": 32, "heads": 4, "bev_size": (16, 8), "mask_stride": 8}
MODEL = dataclasses.replace(SMOKE.model, **SMALL, dropout=0.1, drop_connect=0.2)
TINY = dataclasses.replace(SMOKE, name="tiny", model=MODEL, map=config.MapConfig(num_queries=(5, 5, 5)))
Train = Callable[[Path, str], int]


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """``pivotnet train`` of the tiny network on four samples, given the output folder and more options."""
    data = make_data(tmp_path_factory.mktemp("data") / "root", samples=4)
    common = ["train", "--preset", "tiny", "--data-root", str(data), "--device", "cpu", "--workers", "0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(config.PRESETS, "tiny", TINY)
        yield lambda output, options: cli.main([*common, "--output", str(output), *options.split()])


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory) -> Path:
    """A run of seven steps; not to be changed."""
    output = tmp_path_factory.mktemp("whole")
    assert train(output, "--steps 7 --save-every 2 --keep 2 --log-every 1") == 0
    return output


def losses(output: Path) -> list[tuple]:
    records = list(read_records(output / "steps.rank0.jsonl"))
    assert [record["step"] for record in records] == list(range(len(records)))
    return [(record["loss"], record["terms"]) for record in records]


def saved(output: Path) -> list[str]:
    return [path.name for path in list_checkpoints(output / "checkpoints")]


def weights(output: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(list_checkpoints(output / "checkpoints")[-1])["model_state"]


def test_a_run_leaves_what_it_promises(whole):
    assert saved(whole) == [NAME.format(6), NAME.format(7)]
    records = list(read_records(whole / "steps.rank0.jsonl"))
    assert records[0]["seconds"] is None and all(record["seconds"] > 0 for record in records[1:])
    # warm-up: 7 // 4 = 1 step; steps 2, 4 and 6 begin with a checkpoint
    assert [record["step"] for record in records if record["counted"]] == [1, 3, 5]
    for record in records:
        assert math.isclose(sum(record["terms"].values()), record["loss"], rel_tol=1e-5)
    summary = read_summary(whole)
    times = sorted(record["seconds"] for record in records if record["counted"])
    assert summary["step_seconds"]["median"] == times[1] and summary["step_seconds"]["count"] == 3
    assert summary["fps"] == pytest.approx(1 / times[1])
    assert (summary["steps"], summary["ranks"], summary["global_batch"], summary["finished"]) == (7, 1, 1, True)
    assert summary["final_loss"] == records[-1]["loss"] and summary["checkpoint"] == f"checkpoints/{NAME.format(7)}"
    assert summary["wall_seconds"] > summary["train_seconds"] > sum(times)
    assert (whole / "train.log").read_text().count("loss") == 7
    assert list((whole / "tensorboard").glob("events.*"))
    assert json.loads((whole / "config.json").read_text())["options"]["keep"] == 2


def test_resumed_equals_uninterrupted(train, whole, tmp_path, monkeypatch):
    """Dropout and drop connect are on: the random state must come back too."""
    original = loop.Trainer.train_step

    def killed(self, *arguments):
        if self.step == 5:
            raise KeyboardInterrupt
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "train_step", killed)
        assert train(tmp_path, "--steps 7 --save-every 2") == 130
    (tmp_path / "checkpoints" / "best.pth").write_text("the user's own")
    assert train(tmp_path, "--steps 7 --save-every 2 --keep 1 --resume") == 0
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {NAME.format(7), "best.pth"}
    assert losses(tmp_path) == losses(whole)
    torch.testing.assert_close(weights(tmp_path), weights(whole), rtol=0, atol=0)


def test_seed_decides_the_run(train, whole, tmp_path):
    for name in ("a", "b"):
        assert train(tmp_path / name, "--steps 2 --seed 1 --deterministic") == 0
    torch.use_deterministic_algorithms(False)
    assert losses(tmp_path / "a") == losses(tmp_path / "b") != losses(whole)[:2]


def test_nan_loss_stops_before_a_checkpoint(train, tmp_path, capsys):
    assert train(tmp_path, "--steps 9 --lr 1e6 --save-every 3") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "error: the loss of step 1 is nan" in line and "no checkpoint was written" in line
    assert not (tmp_path / "checkpoints").exists() and len(losses(tmp_path)) == 1


def test_an_epoch_without_a_line_is_warned_of(train, tmp_path, capsys):
    root = make_data(tmp_path / "root", samples=2)
    none = pad_pivots([])
    for path in (root / FOLDER).glob("*.npz"):
        sample = load_annotation(path)
        save_annotation(path, dataclasses.replace(sample, pivot_points=none[0], pivot_lengths=none[1]))
    assert train(tmp_path / "run", f"--data-root {root} --steps 3") == 0
    assert capsys.readouterr().out.count("warning: no sample of this epoch has a line") == 1


def test_a_profile_is_a_trace_that_perfetto_opens(train, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "PROFILE_AFTER", 1)
    assert train(tmp_path, "--steps 3 --profile 1") == 0
    (trace,) = (tmp_path / "profile").glob("*.pt.trace.json")
    assert any(event["name"] == "aten::addmm" for event in json.loads(trace.read_text())["traceEvents"])


def test_sigterm_saves_and_leaves(train, tmp_path):
    records = tmp_path / "steps.rank0.jsonl"

    def ask():
        wait_for(lambda: records.exists() and len(list(read_records(records))) >= 2)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=ask)
    thread.start()
    assert train(tmp_path, "--steps 1000") == 143
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before
    steps = len(losses(tmp_path))
    assert saved(tmp_path) == [NAME.format(steps)] and steps < 100
    assert not read_summary(tmp_path)["finished"] and read_summary(tmp_path)["steps"] == steps
    assert train(tmp_path, f"--steps {steps + 1} --resume") == 0


def test_a_run_killed_in_its_evaluation_goes_on_there(train, whole, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(whole, output)
    assert train(output, "--steps 7 --resume --evaluate val") == 0
    summary = read_summary(output)
    assert summary["evaluation"]["val"]["samples"] == 4 and summary["finished"]
    for key in ("final_loss", "steps", "checkpoint"):
        assert summary[key] == read_summary(whole)[key]
    assert losses(output) == losses(whole)


def test_batch_weights_to_start_from_and_evaluation(train, tmp_path, capsys):
    first, second = tmp_path / "a", tmp_path / "b"
    assert train(first, "--steps 1 --lr 0 --amp bf16 --resume --evaluate val,train") == 0
    assert "nothing to resume" in capsys.readouterr().out
    assert set(read_summary(first)["evaluation"]) == {"val", "train"}
    assert (first / "checkpoints" / "results_step_00000001" / "ap_val.json").exists()
    start = first / "checkpoints" / NAME.format(1)
    assert train(second, f"--steps 1 --batch-size 3 --lr 0 --seed 7 --pretrained {start}") == 0
    before = weights(first)
    for name, value in weights(second).items():
        if "running" not in name and "tracked" not in name:
            assert torch.equal(value, before[name]), name


def test_bad_options_are_one_line_before_anything_is_written(train, tmp_path, capsys):
    for options, message in (
        ("--resume nowhere.pth", "nowhere.pth does not exist"),
        ("--pretrained nowhere.pth", "nowhere.pth does not exist"),
        ("--backbone-weights nowhere.pth", "nowhere.pth"),
        ("--graph", "a CPU has no graphs"),
        ("--split night", "split 'night' is not annotated"),
        ("--evaluate val,night", "split 'night' is not annotated"),
    ):
        assert message in fails(capsys, tmp_path / "run", options, run=lambda words: train(*words))
        assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten_or_mixed(train, whole, capsys):
    for options, message in (
        ("--steps 7", "holds a run already"),
        ("--steps 7 --resume", "has all of the 7 steps"),
        ("--steps 8 --resume --seed 1", "was trained with seed = 0"),
        ("--steps 8 --resume --batch-size 2", "samples a step = 1"),
        ("--steps 8 --resume --preset smoke", "is of preset tiny"),
    ):
        assert train(whole, options) == 2 and message in capsys.readouterr().err


def test_a_second_run_leaves_the_files_of_the_first(train, tmp_path, capsys):
    (tmp_path / ".unfinished.tmp").touch()
    with lock_output(tmp_path):
        assert train(tmp_path, "--steps 1") == 2
    assert f"another run is writing into {tmp_path}: wait for it" in capsys.readouterr().err
    assert os.listdir(tmp_path) == [".unfinished.tmp"]


def test_graphs_need_kept_activations(monkeypatch, tmp_path):
    monkeypatch.setattr(loop.devices, "check_graphs", lambda device: None)
    recomputing = dataclasses.replace(SMOKE, model=dataclasses.replace(SMOKE.model, checkpointing=True))
    with pytest.raises(PivotNetError, match="give --no-checkpointing"):
        loop.Trainer(recomputing, torch.device("cpu"), Ranks(), loop.Run(tmp_path, graph=True))
