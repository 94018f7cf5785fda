"""Runs of the command line in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
ENVIRONMENT.pop("DATA_ROOT", None)


def command(*arguments: object, ranks: int = 0) -> list[str]:
    """``pivotnet ARGUMENTS``, through torchrun if ``ranks`` are given."""
    start = [sys.executable, "-m"]
    if ranks:
        start += ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    return [*start, "pivotnet", *map(str, arguments)]


def run(*arguments: object, ranks: int = 0, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run to the end."""
    return subprocess.run(
        command(*arguments, ranks=ranks),
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        cwd=ROOT,
        timeout=timeout,
    )


def succeed(*arguments: object, ranks: int = 0) -> str:
    """Run to the end; returns stdout."""
    done = run(*arguments, ranks=ranks)
    assert done.returncode == 0, f"{arguments}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def fail(*arguments: object, ranks: int = 0) -> str:
    """Run a command that must end with one line of error; returns that line."""
    done = run(*arguments, ranks=ranks)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode != 0 and len(lines) == 1, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    if not ranks:  # torchrun adds a report of its own
        assert done.stderr.strip() == lines[0] and "Traceback" not in done.stderr, done.stderr
    return lines[0]


def start(*arguments: object, ranks: int = 0) -> subprocess.Popen[str]:
    """Start and return at once; the process leads a group of its own."""
    return subprocess.Popen(
        command(*arguments, ranks=ranks),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        cwd=ROOT,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str], timeout: float = 180) -> None:
    """Return when ``condition`` holds; fail if the process ends before or it takes too long."""
    end = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def records(output: Path, rank: int = 0) -> list[dict[str, Any]]:
    """What the trainer wrote about its steps so far."""
    path = output / f"steps.rank{rank}.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def losses(output: Path, rank: int = 0) -> list[tuple[int, float, dict[str, float]]]:
    """Step, loss and terms of every step."""
    return [(record["step"], record["loss"], record["terms"]) for record in records(output, rank)]
