"""The one exception that means: the user can repair this."""

from __future__ import annotations


class PivotNetError(Exception):
    """Bad input or a bad machine, reported in one line: what is wrong, where, and what to do.

    The command line prints the message after ``error: `` and exits with status 2, without a traceback.
    """


class LostRankError(PivotNetError):
    """Another rank is gone. The process ends at once: threads that still wait for that rank abort at a usual exit."""


class CollectiveError(PivotNetError):
    """An error that every rank finds at the same step; rank 0 alone prints it."""
