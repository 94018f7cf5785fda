"""Commands that leave no process behind, whatever signal comes."""

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pivotnet.limits import whole_number

MARK = "PIVOTNET_RUN"  # environment variable that every process of a supervised command has
GRACE = "PIVOTNET_GRACE"  # seconds that a command has to end after the first signal (60)
LEFT_BEHIND = 2.0  # seconds that processes have to end when the command that started them has ended
LONGEST_FOLDER = 50  # characters; loader workers hang where the names of their sockets are too long
PR_SET_PDEATHSIG = 1  # of Linux' prctl.h


class Interrupted(Exception):
    """The user has ended a supervised command by a signal; the argument is the exit status that says so."""


def end_with_parent(always: bool = False) -> None:
    """Get SIGTERM when the parent process has gone (Linux only). Not where this is no rank and no part of a supervised
    command, unless ``always``: others may outlive their shell."""
    if sys.platform == "linux" and (always or "TORCHELASTIC_RUN_ID" in os.environ or MARK in os.environ):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def private_folder() -> str:
    """A new folder for temporary files, whose name is short enough for the names of sockets in it (108 characters)."""
    shared = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix="pivotnet-", dir=shared if len(shared) < LONGEST_FOLDER else "/tmp")


def supervise(command: Sequence[object], **options: Any) -> int:
    """Run a command with subprocess.Popen's options; returns its exit status, below 0 for a signal. The command gets a
    session of its own, so Ctrl-C reaches this process alone. The first signal asks the command to end (SIGTERM). A
    second one, or PIVOTNET_GRACE seconds, end all of its processes (SIGKILL). Raises Interrupted: SIGINT, SIGTERM or
    SIGHUP came."""
    grace = whole_number(GRACE, os.environ.get(GRACE) or "60", least=0)
    mark = secrets.token_hex(8)
    received: list[int] = []
    # what nohup has switched off stays off
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    previous = {number: signal.signal(number, lambda number, frame: received.append(number)) for number in numbers}
    folder = private_folder()  # whatever is killed, nothing is left in the shared one
    try:
        options["env"] = {**options.get("env", os.environ), MARK: mark, "TMPDIR": folder}
        words = [str(word) for word in command]
        child = subprocess.Popen(words, start_new_session=True, preexec_fn=lambda: end_with_parent(True), **options)
        deadline = None
        while child.poll() is None:
            if received and not deadline:
                child.terminate()
                deadline = time.monotonic() + grace
            if deadline and (len(received) > 1 or time.monotonic() > deadline):
                _signal_marked(mark, signal.SIGKILL)
            time.sleep(0.05)
        limit = time.monotonic() + LEFT_BEHIND
        number: int = signal.SIGTERM
        while _signal_marked(mark, number):
            number = signal.SIGKILL if time.monotonic() > limit else 0
            time.sleep(0.05)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        raise Interrupted(130 if received[-1] == signal.SIGINT else 143)
    return child.returncode


def _signal_marked(mark: str, number: int) -> int:
    """Send a signal (0: none) to all processes with this mark; returns how many there are."""
    entry, count = f"{MARK}={mark}".encode(), 0
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if entry in path.read_bytes().split(b"\0"):
                os.kill(int(path.parent.name), number)
                count += 1
    return count
