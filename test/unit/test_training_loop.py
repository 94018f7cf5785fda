"""The training loop through the command, on a network small enough for seconds."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from support.fake_data import make_data

from pivotnet import checkpoint as checkpoints
from pivotnet import cli, config
from pivotnet.distributed import Ranks
from pivotnet.errors import PivotNetError
from pivotnet.training import loop, setup
from pivotnet.training.timing import read_records

SMOKE = config.PRESETS["smoke"]
TINY = dataclasses.replace(
    SMOKE,
    name="tiny",
    model=dataclasses.replace(
        SMOKE.model,
        image_size=(64, 96),
        hidden=32,
        heads=4,
        bev_size=(16, 8),
        mask_stride=8,
        dropout=0.1,
        drop_connect=0.2,
    ),
    map=dataclasses.replace(SMOKE.map, num_queries=(5, 5, 5)),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "root", samples=4)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(config.PRESETS, "tiny", TINY)


def train(data: Path, output: Path, *options: str) -> int:
    arguments = ["train", "--preset", "tiny", "--data-root", str(data), "--output", str(output), "--device", "cpu"]
    return cli.main([*arguments, "--workers", "0", *options])


def losses(output: Path) -> dict[int, tuple]:
    """{step: (loss, terms)} of a run's records."""
    records = list(read_records(output / "steps.rank0.jsonl"))
    assert [record["step"] for record in records] == list(range(len(records)))
    return {record["step"]: (record["loss"], record["terms"]) for record in records}


def weights(output: Path) -> dict[str, torch.Tensor]:
    return checkpoints.read_checkpoint(checkpoints.list_checkpoints(output / "checkpoints")[-1])["model_state"]


def test_a_run_leaves_what_it_promises(data, tmp_path, capsys):
    assert train(data, tmp_path, "--steps", "9", "--save-every", "3", "--keep", "2", "--log-every", "1") == 0
    assert [path.name for path in checkpoints.list_checkpoints(tmp_path / "checkpoints")] == [
        "step_00000006.pth",
        "step_00000009.pth",
    ]
    records = list(read_records(tmp_path / "steps.rank0.jsonl"))
    assert records[0]["seconds"] is None and all(record["seconds"] > 0 for record in records[1:])
    # warm-up: 9 // 4 = 2 steps; steps 3 and 6 begin with a checkpoint
    assert [record["step"] for record in records if record["counted"]] == [2, 4, 5, 7, 8]
    for record in records:
        assert math.isclose(sum(record["terms"].values()), record["loss"], rel_tol=1e-5)
    summary = json.loads((tmp_path / "summary.json").read_text())
    times = sorted(record["seconds"] for record in records if record["counted"])
    assert summary["step_seconds"]["median"] == times[2] and summary["step_seconds"]["count"] == 5
    assert summary["fps"] == pytest.approx(1 / times[2])
    assert (summary["steps"], summary["ranks"], summary["global_batch"], summary["finished"]) == (9, 1, 1, True)
    assert summary["final_loss"] == records[-1]["loss"]
    assert summary["checkpoint"] == "checkpoints/step_00000009.pth"
    assert (tmp_path / "train.log").read_text().count("loss") == 9
    assert list((tmp_path / "tensorboard").glob("events.*"))
    assert "s/step" in capsys.readouterr().out


def test_resumed_equals_uninterrupted(data, tmp_path, monkeypatch):
    """Dropout and drop connect are on: the random state must come back too."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(data, whole, "--steps", "7", "--save-every", "2") == 0

    original = loop.Trainer.train_step

    def killed(self, *arguments):
        if self.step == 5:
            raise KeyboardInterrupt
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "train_step", killed)
        assert train(data, parts, "--steps", "7", "--save-every", "2") == 130
    assert train(data, parts, "--steps", "7", "--save-every", "2", "--resume") == 0
    assert losses(parts) == losses(whole)
    resumed = weights(parts)
    for name, value in weights(whole).items():
        assert torch.equal(resumed[name], value), name


def test_seed_decides_the_run(data, tmp_path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert train(data, tmp_path / name, "--steps", "2", "--seed", seed, "--deterministic") == 0
    torch.use_deterministic_algorithms(False)
    assert losses(tmp_path / "a") == losses(tmp_path / "b") != losses(tmp_path / "c")


def test_nan_loss_stops_before_a_checkpoint(data, tmp_path, capsys):
    assert train(data, tmp_path, "--steps", "9", "--lr", "1e30", "--save-every", "3") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert (
        len(lines) == 1 and "error: the loss of step 1 is nan" in lines[0] and "no checkpoint was written" in lines[0]
    )
    assert not (tmp_path / "checkpoints").exists()
    assert list(losses(tmp_path)) == [0]


def test_sigterm_saves_and_leaves(data, tmp_path):
    def ask():
        while (
            not (tmp_path / "steps.rank0.jsonl").exists() or len(list(read_records(tmp_path / "steps.rank0.jsonl"))) < 2
        ):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=ask)
    thread.start()
    assert train(data, tmp_path, "--steps", "1000") == 143
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before
    saved = checkpoints.list_checkpoints(tmp_path / "checkpoints")
    steps = len(losses(tmp_path))
    assert [path.name for path in saved] == [checkpoints.NAME.format(steps)] and steps < 100
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert not summary["finished"] and summary["steps"] == steps
    assert train(data, tmp_path, "--steps", str(steps + 1), "--resume") == 0


def test_evaluation_at_the_end(data, tmp_path):
    assert train(data, tmp_path, "--steps", "1", "--evaluate", "val,train") == 0
    tables = json.loads((tmp_path / "summary.json").read_text())["evaluation"]
    assert set(tables) == {"val", "train"} and tables["val"]["samples"] == 4
    assert (tmp_path / "checkpoints" / "results_step_00000001" / "ap_val.json").exists()


def test_a_run_killed_in_its_evaluation_goes_on_there(data, tmp_path):
    assert train(data, tmp_path, "--steps", "3") == 0
    before = json.loads((tmp_path / "summary.json").read_text())
    assert train(data, tmp_path, "--steps", "3", "--resume", "--evaluate", "val") == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["evaluation"]["val"]["samples"] == 4 and summary["finished"]
    for key in ("final_loss", "step_seconds", "steps", "checkpoint"):
        assert summary[key] == before[key] or key == "step_seconds"
    assert list(losses(tmp_path)) == [0, 1, 2]


def test_batch_and_weights_to_start_from(data, tmp_path):
    assert train(data, tmp_path / "a", "--steps", "1", "--lr", "0", "--amp", "bf16") == 0
    ckpt = checkpoints.list_checkpoints(tmp_path / "a" / "checkpoints")[0]
    assert (
        train(
            data,
            tmp_path / "b",
            "--steps",
            "1",
            "--batch-size",
            "3",
            "--lr",
            "0",
            "--seed",
            "7",
            "--pretrained",
            str(ckpt),
        )
        == 0
    )
    before = weights(tmp_path / "a")
    for name, value in weights(tmp_path / "b").items():
        if "running" not in name and "tracked" not in name:
            assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    "options, message",
    [
        (("--resume", "nowhere.pth"), "nowhere.pth does not exist"),
        (("--pretrained", "nowhere.pth"), "nowhere.pth does not exist"),
        (("--backbone-weights", "nowhere.pth"), "nowhere.pth"),
        (("--graph", "--device", "cpu"), "a CPU has no graphs"),
        (("--split", "night"), "split 'night' is not annotated"),
        (("--evaluate", "val,night"), "split 'night' is not annotated"),
    ],
)
def test_bad_options_are_one_line_before_anything_is_written(data, tmp_path, capsys, options, message):
    assert train(data, tmp_path / "run", *options) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "ranks, checkpointing, message",
    [(Ranks(world_size=2), False, "on one card, not on 2"), (Ranks(), True, "give --no-checkpointing")],
)
def test_graphs_need_one_process_and_kept_activations(monkeypatch, ranks, checkpointing, message):
    monkeypatch.setattr(setup.devices, "check_graphs", lambda device: None)
    config = dataclasses.replace(SMOKE, model=dataclasses.replace(SMOKE.model, checkpointing=checkpointing))
    with pytest.raises(PivotNetError, match=message):
        setup._check_graph(config, torch.device("cuda"), ranks)


def test_a_run_is_not_overwritten_or_mixed(data, tmp_path, capsys):
    assert train(data, tmp_path, "--steps", "1") == 0
    assert train(data, tmp_path, "--steps", "1") == 2
    assert "holds a run already" in capsys.readouterr().err
    assert train(data, tmp_path, "--steps", "1", "--resume") == 2
    assert "has all of the 1 steps" in capsys.readouterr().err
    assert train(data, tmp_path, "--steps", "2", "--resume", "--seed", "1") == 2
    assert "was trained with seed = 0" in capsys.readouterr().err
    assert train(data, tmp_path, "--steps", "2", "--resume", "--batch-size", "2") == 2
    assert "samples a step = 1" in capsys.readouterr().err
    assert train(data, tmp_path, "--steps", "2", "--resume", "--preset", "smoke") == 2
    assert "is of preset tiny" in capsys.readouterr().err


def test_nothing_to_resume_starts_anew(data, tmp_path, capsys):
    assert train(data, tmp_path, "--steps", "1", "--resume") == 0
    assert "nothing to resume" in capsys.readouterr().out
