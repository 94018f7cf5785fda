"""A progress bar for work on many samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def progress(items: Iterable[T], what: str, total: int, quiet: bool = False) -> Iterable[T]:
    """``items`` behind a bar on the terminal, which goes when they end, so that an error message stands alone."""
    console = Console(stderr=True)
    if quiet or total == 0 or not console.is_terminal:
        return items  # rich's own switch would still print an empty line
    return track(items, what, total, console=console, transient=True)
