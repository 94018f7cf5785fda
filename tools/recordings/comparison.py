"""One row of the comparison, and the table of all rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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

    A recorded number may differ by the sum of three parts; if all are 0, it must be equal.

    Args:
        what: name of the row.
        absolute: allowed of every number.
        relative: allowed as a part of the largest recorded magnitude of the same array.
        each: allowed as a part of the number's own recorded magnitude.
        tolerance: what the table shows; made from the parts by default.
    """

    def __init__(
        self, what: str, absolute: float = 0.0, relative: float = 0.0, each: float = 0.0, tolerance: str = ""
    ) -> None:
        self.what, self.absolute, self.relative, self.each = what, absolute, relative, each
        parts = ((absolute, ""), (relative, " of the largest"), (each, " of each"))
        self.tolerance = tolerance or " + ".join(f"{part:.2g}{of}" for part, of in parts if part) or "equal"
        self.worst, self.worst_relative, self.good, self.note, self.compared = 0.0, 0.0, True, "", 0

    def add(self, name: str, ours: Any, recorded: Any, noise: float | np.ndarray = 0.0) -> None:
        """Compare two arrays of the same shape; the worst one's name goes into the note.

        Args:
            noise: allowed besides, of the whole array or of each number.
        """
        ours, recorded = np.asarray(ours, np.float64), np.asarray(recorded, np.float64)
        self.compared += 1
        if ours.shape != recorded.shape:
            self.fail(f"{name}: shape {ours.shape}, recorded {recorded.shape}")
            return
        if ours.size == 0:
            return
        same = (ours == recorded) | (np.isnan(ours) & np.isnan(recorded))
        with np.errstate(invalid="ignore"):
            differences = np.nan_to_num(np.where(same, 0.0, np.abs(ours - recorded)), nan=np.inf)
        magnitudes = np.abs(np.where(np.isfinite(recorded), recorded, 0.0))
        difference, largest = float(differences.max()), float(magnitudes.max())
        if difference > self.worst:
            self.worst = difference
            self.note = name if self.good else self.note
        if largest:
            self.worst_relative = max(self.worst_relative, difference / largest)
        if (differences > self.absolute + self.relative * largest + self.each * magnitudes + noise).any():
            self.fail(f"{name}: off by {difference:.2g}")

    def require(self, name: str, holds: bool) -> None:
        """Count a condition that is no difference of numbers; ``name`` says what is wrong if it does not hold."""
        self.compared += 1
        if not holds:
            self.fail(name)

    def fail(self, note: str) -> None:
        """Count as a miss; the first one's note is shown."""
        if self.good:
            self.note = note
        self.good = False

    def row(self) -> Row:
        """The verdict; a comparison of nothing is a miss."""
        if not self.compared:
            self.fail("nothing to compare")
        note = self.note if self.worst or not self.good else ""
        return Row(self.what, self.worst, self.worst_relative, self.tolerance, self.good, note)


def print_table(rows: list[Row], console: Console) -> None:
    """Print all rows and a closing line."""
    table = Table("what", "worst abs.", "worst rel.", "tolerance", "verdict", "where")
    for row in rows:
        verdict = "[green]equal" if row.good else "[red]MISS"
        table.add_row(row.what, f"{row.absolute:.2g}", f"{row.relative:.2g}", row.tolerance, verdict, row.note)
    console.print(table)
    missed = sum(not row.good for row in rows)
    console.print(f"{len(rows) - missed} of {len(rows)} comparisons within tolerance")
