"""Commands of which no process is left behind, whatever signal comes."""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pivotnet.errors import PivotNetError

MARK = "PIVOTNET_RUN"  # environment variable that every process of a supervised command has
GRACE = "PIVOTNET_GRACE"  # seconds that a command has to end after the first signal
LEFT_BEHIND = 2.0  # seconds that processes have to end when the command that started them has ended
PR_SET_PDEATHSIG = 1  # of Linux' prctl.h


class Interrupted(Exception):
    """The user has ended a supervised command by a signal; ``status`` is the exit status that says so."""

    def __init__(self, status: int) -> None:
        super().__init__("interrupted")
        self.status = status


def end_with_parent() -> None:
    """Where this is a rank or part of a supervised command: get SIGTERM when the parent process has gone (Linux only).

    Other processes may outlive the shell that started them.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ or MARK in os.environ:
        _end_with_parent()


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def supervise(command: Sequence[object], **options: Any) -> int:
    """Run a command; returns its exit status, below 0 for a signal.

    The command gets a session of its own, so Ctrl-C reaches this process alone. The first signal asks the command to
    end (SIGTERM). A second one, or PIVOTNET_GRACE seconds (60), end all of its processes (SIGKILL).

    Args:
        command: words.
        options: of subprocess.Popen.

    Raises:
        Interrupted: SIGINT, SIGTERM or SIGHUP came.
    """
    grace = _grace()
    mark = secrets.token_hex(8)
    environment = {**options.pop("env", os.environ), MARK: mark}
    received: list[int] = []
    deadline = float("inf")
    child: subprocess.Popen[Any] | None = None

    def take(number: int, frame: Any) -> None:
        nonlocal deadline
        received.append(number)
        if len(received) > 1:
            deadline = 0.0
        elif child:
            deadline = time.monotonic() + grace
            child.terminate()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, take) for number in numbers}
    try:
        child = subprocess.Popen(
            [str(word) for word in command],
            env=environment,
            start_new_session=True,
            preexec_fn=_end_with_parent,
            **options,
        )
        if received:
            child.terminate()
        while child.poll() is None:
            if time.monotonic() > deadline:
                _signal_marked(mark, signal.SIGKILL)
            time.sleep(0.05)
        if _signal_marked(mark, signal.SIGTERM):
            limit = time.monotonic() + LEFT_BEHIND
            while _signal_marked(mark, signal.SIGKILL if time.monotonic() > limit else 0):
                time.sleep(0.05)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        raise Interrupted(130 if received[-1] == signal.SIGINT else 143)
    return child.returncode


def _grace() -> float:
    text = os.environ.get(GRACE) or "60"
    try:
        return float(text)
    except ValueError:
        raise PivotNetError(f"{GRACE} is {text!r}: give seconds") from None


def _signal_marked(mark: str, number: int) -> int:
    """Send a signal (0: none) to all processes with this mark; returns how many there are."""
    entry, count = f"{MARK}={mark}".encode(), 0
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if entry in path.read_bytes().split(b"\0"):
                os.kill(int(path.parent.name), number)
                count += 1
        except OSError:  # it has ended, or is another user's
            continue
    return count
