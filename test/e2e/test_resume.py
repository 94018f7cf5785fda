"""Runs that are killed or asked to stop, alone and with two ranks, and go on as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from support.commands import losses, records, start, succeed, wait_for

from pivotnet.checkpoint import list_checkpoints, read_checkpoint

STEPS = 7


def options(nuscenes: Path, output: Path, *more: object) -> tuple:
    common = ("--preset", "smoke", "--device", "cpu", "--workers", 1, "--save-every", 2)
    return ("train", *common, "--data-root", nuscenes, "--output", output, "--steps", STEPS, *more)


def final_weights(output: Path) -> dict:
    newest = list_checkpoints(output / "checkpoints")[-1]
    assert newest.name == f"step_{STEPS:08d}.pth"
    return read_checkpoint(newest)["model_state"]


def children(pid: int) -> list[int]:
    """Processes that ``pid`` started and that still run."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def ranks_of(pid: int) -> list[int]:
    """The training processes of a torchrun process, by rank."""
    found = {}
    for child in children(pid):
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        for entry in environment:
            if entry.startswith(b"RANK="):
                found[int(entry[5:])] = child
    return [found[rank] for rank in sorted(found)]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("ranks", [0, 2])
def test_killed_and_resumed_equals_uninterrupted(nuscenes: Path, tmp_path: Path, ranks: int):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    succeed(*options(nuscenes, whole), ranks=ranks)

    process = start(*options(nuscenes, parts), ranks=ranks)
    wait_for(lambda: len(records(parts)) >= 4, process)
    if ranks:
        os.kill(ranks_of(process.pid)[1], signal.SIGKILL)
        killed = time.monotonic()
        _, err = process.communicate(timeout=60)
        assert process.returncode != 0
        assert time.monotonic() - killed < 30, "the other rank stayed behind"
    else:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    assert not (parts / "summary.json").exists()
    (parts / "checkpoints" / ".step_00000004.pth.x.tmp").touch()  # as one leaves it who is killed while he writes

    out = succeed(*options(nuscenes, parts, "--resume"), ranks=ranks)
    assert "resumed from" in out
    assert not list(parts.rglob("*.tmp"))
    for rank in range(max(1, ranks)):
        assert losses(parts, rank) == losses(whole, rank)
    resumed = final_weights(parts)
    for name, tensor in final_weights(whole).items():
        assert tensor.equal(resumed[name]), name


def test_sigterm_under_torchrun_saves_one_state(nuscenes: Path, tmp_path: Path):
    arguments = list(options(nuscenes, tmp_path))
    arguments[arguments.index("--steps") + 1] = 500
    process = start(*arguments, ranks=2)
    wait_for(lambda: len(records(tmp_path)) >= 2, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "stopped by SIGTERM" in out, err
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert not summary["finished"] and summary["steps"] < 500
    assert list_checkpoints(tmp_path / "checkpoints")[-1].name == f"step_{summary['steps']:08d}.pth"
    assert losses(tmp_path, 0) == losses(tmp_path, 1)
