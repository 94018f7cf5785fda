"""Runs of the command line, in this process and in processes of their own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pivotnet import cli

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
ENVIRONMENT.pop("DATA_ROOT", None)


def succeed(*arguments: object, folder: Path = ROOT) -> str:
    """Run ``pivotnet ARGUMENTS`` in a folder to its end; returns stdout."""
    command = [sys.executable, "-m", "pivotnet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=folder, timeout=300)
    assert done.returncode == 0, f"{arguments}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def fails(capsys, *words: object, run: Callable[[list[str]], int] = cli.main) -> str:
    """The one line that a command with bad input says."""
    assert run([*map(str, words)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and said.endswith("\n"), said
    return said.strip()


def wait_for(condition: Callable[[], Any], runs: Callable[[], Any] = lambda: True, timeout: float = 180) -> None:
    """Return when ``condition`` holds; fail if a process no longer ``runs`` before, or it takes too long."""
    end = time.monotonic() + timeout
    while not condition():
        assert runs() and time.monotonic() < end, "it has ended, or took too long"
        time.sleep(0.01)
