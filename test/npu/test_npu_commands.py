"""The package's commands and run scripts on simulated NPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.commands import ROOT
from support.samples import make_data, token

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
