"""A task for the tests of the benchmarks; measuring processes import it by this name."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import torch
from benchmarks.pair import Task

from pivotnet.errors import PivotNetError


class Diary(Task):
    """Writes its name into a file at every run, works, sleeps and holds memory."""

    def __init__(self, path: Path, name: str, sleep: float = 0.0, mebibytes: int = 0, fail: str = "") -> None:
        super().__init__()
        if fail == "build":
            raise PivotNetError("cannot be built: try another")
        self.path, self.name, self.sleep, self.mebibytes, self.fail = path, name, sleep, mebibytes, fail

    def run(self) -> None:
        with open(self.path, "a") as stream:
            stream.write(self.name)
        if self.fail == "run":
            raise ZeroDivisionError("in the run")
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
        self.phases.end("work")
        bytes(b"x" * (self.mebibytes * 2**20))
        torch.ones(3).exp()
        time.sleep(self.sleep)
        self.phases.end("sleep")

    def facts(self) -> dict[str, Any]:
        return {"name": self.name, "children": multiprocessing.get_start_method()}
