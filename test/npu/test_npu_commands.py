"""The package's commands and run scripts on simulated NPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.commands import ROOT
from support.samples import make_data, token

from pivotnet.audit.counts import Audit
from pivotnet.audit.recorder import Recorder
from pivotnet.cli import main


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("nuscenes"), samples=3)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of three steps on the NPU, which ``pivotnet train`` chooses by itself."""
    output = tmp_path_factory.mktemp("run") / "smoke"
    run("train", "--preset", "smoke", "--data-root", data, "--output", output, "--steps", 3)
    assert "npu" in (output / "train.log").read_text()
    assert json.loads((output / "summary.json").read_text())["steps"] == 3
    return output / "checkpoints" / "step_00000003.pth"


def run(*command: object) -> None:
    assert main([*map(str, command), "--workers", "0"]) == 0


@pytest.mark.usefixtures("within_contract")
def test_evaluation_and_prediction_on_the_npu_equal_the_cpu(data: Path, trained: Path, tmp_path: Path):
    found = []
    for device in ("npu", "cpu"):
        folder, options = tmp_path / device, ("--ckpt", trained, "--data-root", data, "--device", device)
        run("evaluate", *options, "--results", folder / "results", "--output", folder / "table.json")
        run("predict", *options, "--output", folder / "maps")
        maps = [json.loads((folder / "maps" / f"{token(index)}.json").read_text())["instances"] for index in range(3)]
        found.append(
            (json.loads((folder / "table.json").read_text()), [one for instances in maps for one in instances])
        )
    (table, mine), (expected_table, others) = found
    assert expected_table["samples"] == 3
    for name in ("samples", "classes", "average", "mAP_hard", "mAP_easy"):
        assert table[name] == expected_table[name]
    assert [one["class"] for one in mine] == [one["class"] for one in others]
    for one, other in zip(mine, others):
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
        np.testing.assert_allclose(one["points"], other["points"], atol=2e-3)


def test_a_run_on_the_npu_resumes(data: Path, trained: Path):
    output = trained.parents[1]
    run("train", "--preset", "smoke", "--data-root", data, "--output", output, "--steps", 4, "--resume")
    assert (output / "checkpoints" / "step_00000004.pth").exists()


@pytest.mark.full
def test_eight_npus_train_through_the_performance_script(data: Path, tmp_path: Path):
    """test/train_8p_performance.sh as it is: eight ranks over HCCL, and its Final result."""
    environment = dict(os.environ, PYTHON=sys.executable, OMP_NUM_THREADS="1", DATA_ROOT=str(data))
    command = ["bash", "test/train_8p_performance.sh", "--preset", "smoke", "--steps", "4"]
    command += ["--output", str(tmp_path / "run"), "--", "--workers", "0"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert "8 devices of type npu" in done.stdout and "Final result" in done.stdout
    assert len(list((tmp_path / "run").glob("steps.rank*.jsonl"))) == 8


def test_waits_copies_and_launches_are_the_real_ones():
    recorder = Recorder(torch.device("npu"))
    host = torch.ones(16).pin_memory()
    torch.npu.synchronize()
    with recorder.recording():
        recorder.enter("input")
        recorder.audit = Audit()
        there = host.to("npu", non_blocking=True)
        (there + 1).relu().view(4, 4).t()
        there[0].item()
        recorder.end_phase()
    counts = recorder.audit.phases["input"]
    assert (counts.launches, counts.host_waits) == (2, 1)
    assert (counts.to_device_copies, counts.to_device_bytes) == (1, 64)
    assert (counts.to_host_copies, counts.to_host_bytes) == (1, 4)
    ((_, line),) = recorder.audit.wait_lines
    assert line.startswith("test_npu_commands.py:")


@pytest.mark.parametrize(
    "preset", ["swint", *(pytest.param(name, marks=pytest.mark.full) for name in ("res50", "effb0"))]
)
def test_a_training_step_waits_once_and_keeps_the_budget(preset: str, tmp_path: Path):
    budget, written = ROOT / "test" / "budgets" / f"{preset}.json", tmp_path / "report.json"
    command = ["audit", "--preset", preset, "--image-size", "64x96", "--device", "npu"]
    if torch.__version__.startswith("2.8"):  # another makes other calls of the same step
        command += ["--budget", str(budget)]
    assert main([*command, "--json", str(written)]) == 0
    report = json.loads(written.read_text())
    assert report["total"]["host_waits"] == 1
    assert report["host_waits"][0]["line"].startswith("criterion/transfer.py:")
    assert all(0 < counts["launches"] and 0 < counts["calls"] for counts in report["phases"].values())
    assert report["total"]["to_host_copies"] == 1
