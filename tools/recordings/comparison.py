"""The comparison of numbers with recorded ones, and the table of all comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table


@dataclass
class Comparison:
    """Collects differences of one sort of number and judges the worst. A recorded number may differ by the sum of three
    parts; if all are 0, it must be equal. A comparison of nothing is a miss."""

    what: str  # name in the table
    absolute: float = 0.0  # allowed of every number
    relative: float = 0.0  # allowed as a part of the largest recorded magnitude of the same array
    each: float = 0.0  # allowed as a part of the number's own recorded magnitude
    tolerance: str = ""  # what the table shows; made from the parts by default
    note: str = ""  # shown if all is well; by default the name of the worst difference
    worst: float = field(default=0.0, init=False)
    worst_relative: float = field(default=0.0, init=False)
    compared: int = field(default=0, init=False)
    faults: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        parts = ((self.absolute, ""), (self.relative, " of the largest"), (self.each, " of each"))
        self.tolerance = self.tolerance or " + ".join(f"{part:.2g}{of}" for part, of in parts if part) or "equal"

    def add(self, name: str, ours: Any, recorded: Any, noise: float | np.ndarray = 0.0) -> None:
        """Compare two arrays; the worst one's name goes into the note. ``noise`` is allowed besides, of the whole array
        or of each number. Of large arrays every so many-th element of an axis is recorded; ours may be whole."""
        ours, recorded = (np.asarray(a.detach() if isinstance(a, torch.Tensor) else a) for a in (ours, recorded))
        if ours.ndim == recorded.ndim:
            steps = [max(1, -(-have // max(kept, 1))) for have, kept in zip(ours.shape, recorded.shape)]
            ours = ours[tuple(slice(None, None, step) for step in steps)]
        ours, recorded = ours.astype(np.float64), recorded.astype(np.float64)
        self.require(f"{name}: shape {ours.shape}, recorded {recorded.shape}", ours.shape == recorded.shape)
        if ours.shape != recorded.shape or ours.size == 0:
            return
        same = (ours == recorded) | (np.isnan(ours) & np.isnan(recorded))
        with np.errstate(invalid="ignore"):
            differences = np.nan_to_num(np.where(same, 0.0, np.abs(ours - recorded)), nan=np.inf)
        magnitudes = np.abs(np.where(np.isfinite(recorded), recorded, 0.0))
        difference, largest = float(differences.max()), float(magnitudes.max())
        if difference > self.worst:
            self.worst, self.note = difference, name
        if largest:
            self.worst_relative = max(self.worst_relative, difference / largest)
        allowed = self.absolute + self.relative * largest + self.each * magnitudes + noise
        self.require(f"{name}: off by {difference:.2g}", bool((differences <= allowed).all()))

    def require(self, fault: str, holds: bool) -> None:
        """Count a condition; ``fault`` says what is wrong if it does not hold."""
        self.compared += 1
        if not holds:
            self.faults.append(fault)

    @property
    def fault(self) -> str:
        """The first fault; empty if all is well."""
        if self.faults:
            return self.faults[0]
        return "" if self.compared else "nothing to compare"


def compare(
    groups: Mapping[str, Comparison], found: Mapping[str, Any], recorded: Mapping[str, Any], prefix: str = ""
) -> None:
    """Compare our values with the recorded ones under prefix and the same name, each in the first of the groups, by
    patterns of names ("loss/*"), that its name matches."""
    for name, value in found.items():
        group = next(group for pattern, group in groups.items() if fnmatchcase(name, pattern))
        group.add(f"{prefix}{name}", value, recorded[f"{prefix}{name}"])


def print_table(comparisons: list[Comparison], console: Console) -> None:
    table = Table("what", "worst abs.", "worst rel.", "tolerance", "verdict", "where")
    for one in comparisons:
        verdict = "[red]MISS" if one.fault else "[green]equal"
        worst = f"{one.worst:.2g}", f"{one.worst_relative:.2g}"
        table.add_row(one.what, *worst, one.tolerance, verdict, one.fault or one.note)
    console.print(table)
    good = sum(not one.fault for one in comparisons)
    console.print(f"{good} of {len(comparisons)} comparisons within tolerance")
