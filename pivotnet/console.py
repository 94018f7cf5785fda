"""Long runs on the terminal: progress bars, and SIGTERM that stops a run as Ctrl-C does."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    track,
)

T = TypeVar("T")


@contextlib.contextmanager
def long_run(what: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function that draws (done, to do) on the terminal; in the block, SIGTERM raises KeyboardInterrupt."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True))

    def show(done: int, total: int) -> None:
        if not bar.console.is_terminal:
            return
        if not bar.tasks:  # only now, since its thread must not run while workers are forked
            bar.add_task(what, total=total)
            bar.start()
        bar.update(bar.tasks[0].id, completed=done)

    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield show
    finally:
        if bar.tasks:
            bar.stop()
        signal.signal(signal.SIGTERM, previous)


def progress(items: Iterable[T], what: str, total: int, quiet: bool = False) -> Iterable[T]:
    """``items`` with a bar on the terminal, which is removed at the end, so that an error message stands alone."""
    console = Console(stderr=True)
    if quiet or total == 0 or not console.is_terminal:
        return items  # rich's own switch would still print an empty line
    return track(items, what, total, console=console, transient=True)
