"""Long runs on the terminal: a progress bar, and SIGTERM that stops them as Ctrl-C does."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextlib.contextmanager
def long_run(what: str, unit: str = "samples") -> Iterator[Callable[[int, int], None]]:
    """Gives a function that draws (done, to do) on the terminal; in the block, SIGTERM raises KeyboardInterrupt."""
    console = Console(stderr=True)
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{{task.fields[rate]:.1f}} {unit}/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console)

    def show(done: int, total: int) -> None:
        if not console.is_terminal:
            return
        if not bar.tasks:  # only now, since its thread must not run while workers are forked
            bar.add_task(what, total=total, rate=0.0)
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
