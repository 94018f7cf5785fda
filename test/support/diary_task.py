"""A task for the tests of the benchmarks; measuring processes import it by this name."""

import time
from pathlib import Path

import numpy as np
import torch
from benchmarks.turns import Clock, Task

from pivotnet.errors import PivotNetError


def diary(path: Path, name: str, sleep: float = 0.0, mebibytes: int = 0, fail: str = "") -> Task:
    """Writes its name into a file at every run, works, sleeps and holds memory."""
    if fail == "made":
        raise PivotNetError("cannot be made: try another")
    clock = Clock()

    def run() -> None:
        with open(path, "a") as stream:
            stream.write(name)
        if fail == "run":
            raise ZeroDivisionError("in the run")
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
        clock.enter("sleep")
        bytes(b"x" * (mebibytes * 2**20))
        torch.ones(3, 3) @ torch.ones(3, 3)
        time.sleep(sleep)

    return Task(clock, run, first_phase="work", gradients=lambda: (1.0, {"a": np.zeros(1)}))
