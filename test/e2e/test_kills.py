"""Runs that are killed again and again, at random, end as one that was never interrupted, and leave nothing behind.

KILLS (12) and SEED (0) in the environment: bash test/run_tests.sh --full -k kills
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from subprocess import Popen

import pytest
from support.fake_data import make_data
from support.script_copy import PERFORMANCE, final_state, losses, make_script_copy, processes, rank_in

from pivotnet.checkpoint import list_checkpoints, read_checkpoint

STEPS = 8
SHORT = ("--steps", STEPS, "--", "--workers", 1, "--save-every", 2, "--keep", 2)
MOMENTS = ("start", "step", "save")
TARGETS = ("run", "script", "launcher", "rank 0", "rank 1", "worker")
MOST_SECONDS = 60.0  # that processes have to end after a kill
MARK = "KILL_TEST"  # environment variable of all processes of a run


def targets(name: str, process: Popen[str], mark: str, output: Path) -> set[int]:
    """Numbers of the processes to be killed; empty while there are none."""
    if name == "script":
        return {process.pid}
    if name == "launcher":
        return processes("cmdline", "pivotnet.launch.torchrun") & processes("environ", mark)
    if name == "run":
        return processes("environ", mark)
    with contextlib.suppress(ValueError):
        if name != "worker":
            return {rank_in(output, int(name[-1]))}
        ranks = processes("environ", " RANK=") & processes("cmdline", str(output))
        return set(random.sample(sorted(ranks - {rank_in(output, rank) for rank in (0, 1)}), 1))
    return set()


def moment_comes(moment: str, output: Path, started: float, done: int, rng: random.Random) -> Iterator[bool]:
    """Whether the moment has come, each time it is asked."""
    delay, steps = rng.uniform(0, 12), done + rng.randint(1, 3)
    while True:
        if moment == "start":
            yield time.monotonic() - started > delay
        elif moment == "step":
            yield len(losses(output)) >= steps
        else:
            yield any((output / "checkpoints").glob(".step_*.tmp"))


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
def test_kills_at_random_moments(tmp_path):
    kills, seed = int(os.environ.get("KILLS", "12")), int(os.environ.get("SEED", "0"))
    rng = random.Random(seed)
    checkout = make_script_copy(tmp_path / "checkout")
    data = make_data(tmp_path / "data", samples=4)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    status, out, err = checkout.run(PERFORMANCE, "--data-root", data, "--output", whole, *SHORT)
    assert status == 0, out + err

    cases = [
        case for _ in range(kills) for case in rng.sample([*product(MOMENTS, TARGETS)], len(MOMENTS) * len(TARGETS))
    ]
    killed, finished = 0, 0
    while killed < kills or parts.exists():
        resumed = bool(list_checkpoints(parts / "checkpoints"))
        if not resumed:
            shutil.rmtree(parts, ignore_errors=True)
        options = ("--resume", parts) if resumed else ("--data-root", data, "--output", parts, *SHORT)
        mark = f"{MARK}={time.monotonic_ns()}"
        done, started = len(losses(parts)), time.monotonic()
        process = checkout.start(PERFORMANCE, *options, **dict([mark.split("=")]))
        if killed < kills:
            moment, target = cases[killed]
            comes = moment_comes(moment, parts, started, done, rng)
            numbers: set[int] = set()
            while process.poll() is None and not numbers:
                if next(comes):
                    numbers = targets(target, process, mark, parts)
                time.sleep(0.001)
            for number in numbers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            if numbers:
                killed += 1
                print(
                    f"{killed:3d}  {moment:6}{target:9} after {time.monotonic() - started:5.1f} s", end="", flush=True
                )
            _, err = process.communicate(timeout=MOST_SECONDS)
            if numbers and (moment, target) == ("step", "worker") and process.returncode:
                assert "a data loading worker was killed" in err
            limit = time.monotonic() + MOST_SECONDS
            while processes("environ", mark):
                assert time.monotonic() < limit, processes("environ", mark)
                time.sleep(0.1)
            if numbers:
                print(f": {len(losses(parts))} steps, {len(list_checkpoints(parts / 'checkpoints'))} checkpoints")
        else:
            out, err = process.communicate(timeout=600)
            assert process.returncode == 0, out + err
        for path in list_checkpoints(parts / "checkpoints"):
            read_checkpoint(path)
        if process.returncode == 0:
            check_equal(whole, parts)
            shutil.rmtree(parts)
            finished += 1
    print(f"{killed} kills, {finished} runs finished, each equal to the uninterrupted one")
    assert finished


def check_equal(whole: Path, parts: Path) -> None:
    """Same losses in every rank, same weights and optimiser, and nothing half written."""
    assert not [path for path in parts.rglob("*") if path.name.endswith(".tmp")]
    for rank in (0, 1):
        assert losses(parts, rank) == losses(whole, rank) and len(losses(parts, rank)) == STEPS
    one, other = final_state(whole), final_state(parts)
    assert one["optimizer_state"]["param_groups"] == other["optimizer_state"]["param_groups"]
    for name, tensor in one["model_state"].items():
        assert tensor.equal(other["model_state"][name]), name
    for number, entry in one["optimizer_state"]["state"].items():
        for name, tensor in entry.items():
            assert tensor.equal(other["optimizer_state"]["state"][number][name]), (number, name)
