"""Runs of the command line, in this process and in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

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
