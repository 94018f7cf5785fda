"""Training runs as the run scripts start them: choices, data, folders, ranks, and no process left behind."""

from __future__ import annotations

from pivotnet.errors import PivotNetError


def say(text: str) -> None:
    print(f"[pivotnet] {text}", flush=True)


def whole_number(name: str, text: str, least: int = 1) -> int:
    """A number that the user has given under this name."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
        raise PivotNetError(f"{name} is {text}: give a whole number of at least {least}")
    return int(text)
