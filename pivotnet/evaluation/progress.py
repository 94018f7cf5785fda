"""A progress bar for work on many samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def progress(items: Iterable[T], what: str, total: int, quiet: bool = False) -> Iterable[T]:
    """``items`` behind a bar on stderr, which goes when they end, so that an error message stands alone."""
    return track(items, what, total, console=Console(stderr=True), transient=True, disable=quiet or total == 0)
