"""The one exception that means: the user can repair this; what else the user can repair; how a command ends."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Iterator

NO_MEMORY = ("out of memory", "allocate memory", "failed to map segment", "can't start new thread")
KILLED_WORKER = re.compile(r"DataLoader worker \(pid")  # torch's message; an error inside a worker has another
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
CLOSED_PIPE = 1  # exit status where the reader of stdout has gone; rich has the same


class PivotNetError(Exception):
    """Bad input or a bad machine, reported in one line: what is wrong, where, and what to do. The command line prints
    the message after ``error: `` and exits with status 2, without a traceback."""

    def __str__(self) -> str:
        # what a file or a name holds must neither break the line nor steer the terminal
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in super().__str__())


class LostRankError(PivotNetError):
    """Another rank is gone. The process ends at once: threads that still wait for that rank abort at a usual exit."""


class CollectiveError(PivotNetError):
    """An error that every rank finds at the same step; rank 0 alone prints it."""


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def describe(error: BaseException) -> str | None:
    """One line about an error that the user can repair; None for a fault of the program."""
    if isinstance(error, PivotNetError):
        return str(error)
    first = first_line(error)
    if isinstance(error, RuntimeError) and KILLED_WORKER.search(str(error)):
        cause = "too little memory, or too little shared memory (/dev/shm)"
        return f"a data loading worker was killed ({first}): {cause}; give fewer --workers"
    known = isinstance(error, (ImportError, RuntimeError, OSError)) and any(words in str(error) for words in NO_MEMORY)
    if known or isinstance(error, MemoryError):
        remedy = "end other programs, raise the limit (ulimit -v), or give a smaller --batch-size and fewer --workers"
        return f"out of memory ({first}): {remedy}"
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        where = "the disk that is written to, or to which stdout goes"
        return f"{where}, is full ({first}): free some space, then run this again (training: with --resume)"
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot use {error.filename}: {error.strerror}; correct the path or its permissions"
    return None


@contextlib.contextmanager
def exit_on_error() -> Iterator[None]:
    """End the process with status 2 and one line at an error that the user can repair."""
    try:
        yield
    except PivotNetError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C caused the error: numpy raises ValueError for an interrupt that comes within its C code."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def run_command(run: Callable[[], int]) -> int:
    """Run a command to its exit status: 2 after an error that the user can repair, which is one line on stderr."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller; a file of ours must not get its number
            setattr(sys, name, open(os.devnull, "w"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no UTF-8
    line = ""
    try:
        try:
            status = run()
        except SystemExit as left:  # of --help
            if left.code:
                raise
            status = 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        status = CLOSED_PIPE
    except (Exception, KeyboardInterrupt) as error:
        if _interrupted(error):
            status, line = 130, "interrupted\n"
        elif what := describe(error):
            status, line = 2, f"error: {what}\n"
        else:
            raise
    with contextlib.suppress(OSError):
        sys.stderr.write(line)
    try:
        sys.stdout.flush()
    except OSError:  # what cannot be written is dropped: Python would try again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status
