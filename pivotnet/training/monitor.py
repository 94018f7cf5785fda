"""What rank 0 shows while it trains: a progress line, a log file, TensorBoard curves. Other ranks show nothing."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG_NAME = "train.log"
SMOOTHING = 0.9  # of the step time and the share of waiting on the progress line
GIB = 1 << 30


class Monitor:
    """Console, train.log and TensorBoard of one run, until ``close``; ``enabled`` is False on all ranks but 0. The
    progress bar begins at ``start_step``; the points of TensorBoard behind it are replaced. ``log_every``: steps
    between lines of the log and points of the curves."""

    def __init__(self, folder: Path, *, total_steps: int, start_step: int, log_every: int, enabled: bool) -> None:
        self.total_steps, self.log_every, self.enabled = total_steps, log_every, enabled
        self.seconds: float | None = None
        self.wait = 0.0  # share of a step spent waiting for data
        if not enabled:
            return
        from torch.utils.tensorboard import SummaryWriter

        self.console = Console(highlight=False, soft_wrap=True)
        self.log = open(folder / LOG_NAME, "a", buffering=1)
        self.curves = SummaryWriter(str(folder / "tensorboard"), purge_step=start_step + 1)
        columns = (BarColumn(bar_width=10), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
        self.progress = Progress(*columns, TextColumn("{task.fields[note]}"), console=self.console)
        self.task = self.progress.add_task("training", total=total_steps, completed=start_step, note="")
        if self.console.is_terminal:  # elsewhere it would leave an empty line
            self.progress.start()

    def close(self) -> None:
        if self.enabled:
            if self.console.is_terminal:
                self.progress.stop()
            for stream in (self.curves, self.log):
                with contextlib.suppress(OSError):  # a full disk has been reported already
                    stream.close()

    def say(self, text: str, console: bool = True) -> None:
        """A line on the console and, with the time, in the log file."""
        if self.enabled:
            self.log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
            if console:
                self.console.print(text, markup=False)

    def step(self, record: Mapping[str, Any], memory: int) -> None:
        """Take note of a finished step, given as its record (see records.py) and the peak memory in bytes."""
        if not self.enabled:
            return
        done = record["step"] + 1
        note = self._describe(record, memory)
        self.progress.update(self.task, completed=done, note=note)
        if done % self.log_every and done != self.total_steps:
            return
        self.say(f"step {done}/{self.total_steps}  {note}", console=not self.console.is_terminal)
        values = {"train/loss": record["loss"], "meta/learning_rate": record["lr"]}
        values.update({f"train/{name}": value for name, value in record["terms"].items()})
        if record["seconds"] is not None:
            values.update({"meta/step_seconds": record["seconds"], "meta/data_wait_seconds": record["data_wait"]})
        for name, value in values.items():
            self.curves.add_scalar(name, value, done)

    def end_epoch(self, instances: int) -> None:
        """Warn of an epoch in which this rank has seen no instance: the network learns to draw nothing."""
        if not instances:
            remedy = "look at the annotations (pivotnet render draws them)"
            self.say(f"warning: no sample of this epoch has a line: {remedy}")

    def _describe(self, record: Mapping[str, Any], memory: int) -> str:
        seconds = record["seconds"]
        if seconds is not None:
            keep = 0.0 if self.seconds is None else SMOOTHING
            self.seconds = keep * (self.seconds or 0.0) + (1 - keep) * seconds
            self.wait = keep * self.wait + (1 - keep) * record["data_wait"] / seconds
        pace = "" if self.seconds is None else f"  {self.seconds:.3f} s/step  wait {100 * self.wait:.0f}%"
        return f"loss {record['loss']:.4f}  lr {record['lr']:.3g}{pace}  {memory / GIB:.2f} GiB"
