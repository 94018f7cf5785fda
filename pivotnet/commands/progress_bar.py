"""The progress bar of commands that make many samples."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A function that shows (samples done, samples to do), on a terminal only; SIGTERM interrupts as Ctrl-C does."""
    console = Console(stderr=True)
    rate = TextColumn("{task.fields[rate]:.1f} samples/s")
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), rate, TimeElapsedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True)

    def show(done: int, total: int) -> None:
        if not console.is_terminal:
            return
        if not bar.tasks:  # only now, since its thread must not run while workers are forked
            bar.add_task(title, total=total, rate=0.0)
            bar.start()
        elapsed = bar.tasks[0].elapsed or 0.0
        bar.update(bar.tasks[0].id, completed=done, rate=done / elapsed if elapsed else 0.0)

    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield show
    finally:
        if bar.tasks:
            bar.stop()
        signal.signal(signal.SIGTERM, previous)
