"""What rank 0 tells while it trains: a progress line, a log file, TensorBoard curves. Other ranks tell nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG_NAME = "train.log"
_SMOOTHING = 0.9  # of the step time on the progress line


def describe_step(step: int, total: int, loss: float | None, lr: float, seconds: float | None, wait: float) -> str:
    """One line of progress; ``wait`` is the share of a step spent waiting for data."""
    parts = [f"step {step}/{total}", f"loss {loss:.4f}", f"lr {lr:.3g}"]
    if seconds is not None:
        parts += [f"{seconds:.3f} s/step", f"wait {100 * wait:.0f}%"]
    return "  ".join(parts)


class Monitor:
    """Console, train.log and TensorBoard of one run.

    Args:
        folder: output folder.
        total_steps: where the progress bar ends.
        start_step: where it begins; the points of TensorBoard behind it are replaced.
        log_every: steps between lines of the log and points of the curves.
        enabled: False on all ranks but 0.
    """

    def __init__(self, folder: Path, *, total_steps: int, start_step: int, log_every: int, enabled: bool) -> None:
        self.total_steps = total_steps
        self.log_every = log_every
        self.enabled = enabled
        self.seconds: float | None = None
        self.wait = 0.0
        if not enabled:
            return
        from torch.utils.tensorboard import SummaryWriter

        self.console = Console(highlight=False, soft_wrap=True)
        self.log = open(folder / LOG_NAME, "a", buffering=1)
        self.curves = SummaryWriter(str(folder / "tensorboard"), purge_step=start_step + 1)
        self.progress = Progress(
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task("training", total=total_steps, completed=start_step, note="")
        self.progress.start()

    def say(self, text: str) -> None:
        """A line on the console and, with the time, in the log file."""
        if self.enabled:
            self.progress.console.print(text, markup=False)
            self.log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def step(self, record: Mapping[str, Any], memory: int) -> None:
        """Take note of a finished step, given as its record (see timing.py) and the peak memory in bytes."""
        if not self.enabled:
            return
        seconds = record["seconds"]
        if seconds is not None:
            keep = 0.0 if self.seconds is None else _SMOOTHING
            self.seconds = keep * (self.seconds or 0.0) + (1 - keep) * seconds
            self.wait = keep * self.wait + (1 - keep) * record["data_wait"] / seconds
        done = record["step"] + 1
        line = describe_step(done, self.total_steps, record["loss"], record["lr"], self.seconds, self.wait)
        line += f"  {memory / 2**30:.2f} GiB"
        self.progress.update(self.task, completed=done, note=line.split("  ", 1)[1])
        if done % self.log_every and done != self.total_steps:
            return
        self.log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
        if not self.console.is_terminal:
            self.console.print(line, markup=False)
        self.curves.add_scalar("train/loss", record["loss"], done)
        for name, value in record["terms"].items():
            self.curves.add_scalar(f"train/{name}", value, done)
        self.curves.add_scalar("meta/learning_rate", record["lr"], done)
        if seconds is not None:
            self.curves.add_scalar("meta/step_seconds", seconds, done)
            self.curves.add_scalar("meta/data_wait_seconds", record["data_wait"], done)

    def close(self) -> None:
        """Leave the terminal in order and the files complete."""
        if self.enabled:
            self.progress.stop()
            for stream in (self.curves, self.log):
                with contextlib.suppress(OSError):  # a full disk has been told already
                    stream.close()
