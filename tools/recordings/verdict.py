"""One row of the comparison, and the table of all rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table


@dataclass
class Row:
    """One comparison: the worst difference of everything that ``what`` names."""

    what: str
    absolute: float
    relative: float
    tolerance: str
    good: bool
    note: str = ""


class Comparison:
    """Collects differences of one kind of number and judges the worst.

    Args:
        what: name of the row.
        absolute: largest absolute difference allowed.
        relative: largest difference allowed, as a part of the largest recorded magnitude of the same array.
    Either bound suffices; a bound of 0 asks for exact equality.
    """

    def __init__(self, what: str, absolute: float = 0.0, relative: float = 0.0) -> None:
        self.what, self.limits = what, (absolute, relative)
        self.worst, self.worst_relative, self.good, self.note, self.compared = 0.0, 0.0, True, "", 0

    def add(self, name: str, ours: np.ndarray, recorded: np.ndarray) -> None:
        """Compare two arrays of the same shape; the worst one's name goes into the note."""
        ours, recorded = np.asarray(ours), np.asarray(recorded)
        self.compared += 1
        if ours.shape != recorded.shape:
            self._fail(f"{name}: shape {ours.shape}, recorded {recorded.shape}")
            return
        if ours.size == 0:
            return
        first, second = ours.astype(np.float64), recorded.astype(np.float64)
        same = (first == second) | (np.isnan(first) & np.isnan(second))
        with np.errstate(invalid="ignore"):
            apart = np.where(same, 0.0, np.abs(first - second))
        difference = float(np.nan_to_num(apart, nan=np.inf).max())
        finite = np.abs(second[np.isfinite(second)])
        largest = float(finite.max()) if finite.size else 0.0
        relative = difference / largest if largest else float("inf") if difference else 0.0
        if difference > self.worst:
            self.worst = difference
            self.note = self.note if not self.good else name
        if largest:
            self.worst_relative = max(self.worst_relative, relative)
        if difference > self.limits[0] and relative > self.limits[1]:
            self._fail(f"{name}: off by {difference:.2g}")

    def fail(self, reason: str) -> None:
        """Count as a miss for a reason that is no difference of numbers."""
        self._fail(reason)

    def _fail(self, note: str) -> None:
        if self.good:
            self.note = note
        self.good = False

    def row(self) -> Row:
        """The verdict; a comparison of nothing is a miss."""
        if not self.compared:
            self._fail("nothing to compare")
        absolute, relative = self.limits
        parts = [f"{absolute:.2g}"] * bool(absolute) + [f"{relative:.2g} rel."] * bool(relative)
        note = self.note if self.worst or not self.good else ""
        return Row(self.what, self.worst, self.worst_relative, " or ".join(parts) or "equal", self.good, note)


def print_table(rows: list[Row], console: Console) -> None:
    """Print all rows and a closing line."""
    table = Table("what", "worst abs.", "worst rel.", "tolerance", "verdict", "where")
    for row in rows:
        verdict = "[green]equal" if row.good else "[red]MISS"
        table.add_row(row.what, f"{row.absolute:.2g}", f"{row.relative:.2g}", row.tolerance, verdict, row.note)
    console.print(table)
    missed = sum(not row.good for row in rows)
    console.print(f"{len(rows) - missed} of {len(rows)} comparisons within tolerance")
