"""A finding: what was seen, whether it matters, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

OK, NOTE, WARNING, ERROR = "ok", "note", "warning", "error"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    ``status``: ok; note (good to know); warning (training starts, but slower or not as wanted); error (training on this
    machine could not start, or would end soon).
    """

    topic: str
    status: str
    text: str
    remedy: str = ""
