"""Long runs on the terminal: progress bars, and SIGTERM that stops a run as Ctrl-C does."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


@contextlib.contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """In the block, SIGTERM raises KeyboardInterrupt. Not in a thread, where no handler can be set."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def progress(items: Iterable[T], what: str, total: int, quiet: bool = False) -> Iterator[T]:
    """``items`` with a bar on the terminal, which is removed at the end, so that an error message stands alone. The bar
    begins with the first item, since its thread must not run while workers are forked."""
    console = Console(stderr=True)
    # rich's own switch would still print an empty line
    shown = total > 0 and not quiet and console.is_terminal
    iterator = iter(items)
    for first in iterator:
        found = chain(iter([first]), iterator)
        del first  # it may be large
        yield from track(found, what, total, console=console, transient=True) if shown else found
