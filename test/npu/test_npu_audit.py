"""``pivotnet audit`` on a simulated NPU, which counts what torch_npu really asks of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.commands import ROOT

from pivotnet.audit.counts import Audit
from pivotnet.audit.recorder import Recorder
from pivotnet.cli import main


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
    assert line.startswith("test_npu_audit.py:")


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
