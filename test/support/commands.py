"""Runs of the command line in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
ENVIRONMENT.pop("DATA_ROOT", None)


def succeed(*arguments: object, folder: Path = ROOT) -> str:
    """Run ``pivotnet ARGUMENTS`` in a folder to its end; returns stdout."""
    command = [sys.executable, "-m", "pivotnet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=folder, timeout=300)
    assert done.returncode == 0, f"{arguments}:\n{done.stdout}\n{done.stderr}"
    return done.stdout
