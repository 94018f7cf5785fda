"""The package's commands and run scripts on simulated NPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.fake_data import make_data, token

from pivotnet.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("nuscenes"), samples=3)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of three steps on the NPU, which ``pivotnet train`` chooses by itself."""
    output = tmp_path_factory.mktemp("run") / "smoke"
    command = ["train", "--preset", "smoke", "--data-root", str(data), "--output", str(output), "--steps", "3"]
    assert main([*command, "--workers", "0"]) == 0
    assert "npu" in (output / "train.log").read_text()
    summary = json.loads((output / "summary.json").read_text())
    assert summary["steps"] == 3
    return output / "checkpoints" / "step_00000003.pth"


@pytest.mark.usefixtures("within_contract")
def test_evaluation_on_the_npu_equals_the_cpu(data: Path, trained: Path, tmp_path: Path):
    for device in ("npu", "cpu"):
        command = ["evaluate", "--ckpt", str(trained), "--data-root", str(data), "--device", device, "--workers", "0"]
        assert main([*command, "--results", str(tmp_path / device), "--output", str(tmp_path / f"{device}.json")]) == 0
    on_npu, on_cpu = (json.loads((tmp_path / f"{device}.json").read_text()) for device in ("npu", "cpu"))
    assert on_cpu["samples"] == 3
    for name in ("samples", "classes", "average", "mAP_hard", "mAP_easy"):
        assert on_npu[name] == on_cpu[name]


@pytest.mark.usefixtures("within_contract")
def test_prediction_on_the_npu_equals_the_cpu(data: Path, trained: Path, tmp_path: Path):
    for device in ("npu", "cpu"):
        command = ["predict", "--ckpt", str(trained), "--data-root", str(data), "--device", device, "--workers", "0"]
        assert main([*command, "--output", str(tmp_path / device)]) == 0
    for index in range(3):
        name = f"{token(index)}.json"
        on_npu, on_cpu = (json.loads((tmp_path / device / name).read_text())["instances"] for device in ("npu", "cpu"))
        assert [one["class"] for one in on_npu] == [one["class"] for one in on_cpu]
        for mine, other in zip(on_npu, on_cpu):
            assert mine["score"] == pytest.approx(other["score"], abs=1e-4)
            np.testing.assert_allclose(mine["points"], other["points"], atol=2e-3)


def test_a_run_on_the_npu_resumes(data: Path, trained: Path):
    output = trained.parents[1]
    command = ["train", "--preset", "smoke", "--data-root", str(data), "--output", str(output), "--steps", "4"]
    assert main([*command, "--workers", "0", "--resume"]) == 0
    assert (output / "checkpoints" / "step_00000004.pth").exists()


@pytest.mark.full
def test_eight_npus_train_through_the_performance_script(data: Path, tmp_path: Path):
    """test/train_8p_performance.sh as it is: eight ranks over HCCL, and its Final result."""
    environment = dict(os.environ, PYTHON=sys.executable, OMP_NUM_THREADS="1", DATA_ROOT=str(data))
    command = ["bash", "test/train_8p_performance.sh", "--preset", "smoke", "--steps", "4"]
    command += ["--output", str(tmp_path / "run"), "--", "--workers", "0"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert "8 devices of type npu" in done.stdout
    assert "Final result" in done.stdout
    assert len(list((tmp_path / "run").glob("steps.rank*.jsonl"))) == 8
