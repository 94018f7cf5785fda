"""Runs that are killed again and again, at random, end as one that was never interrupted, and leave nothing behind.

KILLS (12) and SEED (0) in the environment: bash test/run_tests.sh --full -k kills
"""

import contextlib
import os
import random
import shutil
import signal
import time
from itertools import product
from pathlib import Path
from subprocess import Popen

import pytest
import torch
from support.fake_data import make_data
from support.script_copy import PERFORMANCE, ScriptCopy, final_state, losses, processes, rank_in, wait_until_gone

from pivotnet.checkpoint import list_checkpoints, read_checkpoint

STEPS = 8
SHORT = ("--steps", STEPS, "--", "--workers", 1, "--save-every", 2, "--keep", 2)
MOMENTS = ("start", "step", "save")
TARGETS = ("run", "script", "launcher", "rank 0", "rank 1", "worker")
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


def kill(moment: str, target: str, process: Popen[str], mark: str, output: Path, rng: random.Random) -> bool:
    """Kill when the moment has come; returns whether that was before the end of the run."""
    begin, steps = time.monotonic() + rng.uniform(0, 12), len(losses(output)) + rng.randint(1, 3)
    moments = {
        "start": lambda: time.monotonic() > begin,
        "step": lambda: len(losses(output)) >= steps,
        "save": lambda: any((output / "checkpoints").glob(".step_*.tmp")),
    }
    numbers: set[int] = set()
    while process.poll() is None and not numbers:
        numbers = targets(target, process, mark, output) if moments[moment]() else set()
        time.sleep(0.001)
    for number in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    return bool(numbers)


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
def test_kills_at_random_moments(tmp_path):
    kills, rng = int(os.environ.get("KILLS", "12")), random.Random(int(os.environ.get("SEED", "0")))
    checkout = ScriptCopy(tmp_path / "checkout")
    data = make_data(tmp_path / "data", samples=4)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    status, out, err = checkout.run(PERFORMANCE, "--data-root", data, "--output", whole, *SHORT)
    assert status == 0, out + err

    every = [*product(MOMENTS, TARGETS)]
    cases = [case for _ in range(kills) for case in rng.sample(every, len(every))]
    killed, finished = 0, 0
    while killed < kills or parts.exists():
        resumed = bool(list_checkpoints(parts / "checkpoints"))
        if not resumed:
            shutil.rmtree(parts, ignore_errors=True)
        options = ("--resume", parts) if resumed else ("--data-root", data, "--output", parts, *SHORT)
        mark = str(time.monotonic_ns())
        process = checkout.start(PERFORMANCE, *options, **{MARK: mark})
        if killed < kills:
            case = cases[killed]
            hit = kill(*case, process, f"{MARK}={mark}", parts, rng)
            _, err = process.communicate(timeout=60)
            assert not hit or case != ("step", "worker") or not process.returncode or "worker was killed" in err
            wait_until_gone("environ", f"{MARK}={mark}")
            killed += hit
            if hit:
                print(
                    killed, *case, f"{len(losses(parts))} steps, {len(list_checkpoints(parts / 'checkpoints'))} saved"
                )
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
    for key in ("model_state", "optimizer_state"):
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=0)
