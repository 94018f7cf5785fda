"""What a benchmark prints, and keeps as JSON: seconds, ratios, counts, the machine, versions and load."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.turns import TOTAL, Measurement, ratio
from pivotnet import device as devices
from pivotnet.files import write_json

GIB = 2**30


class Printed:
    """Prints tables as they come, and keeps all that was measured so far in a JSON file if one is wanted."""

    def __init__(self, name: str, path: Path | None) -> None:
        self.path = path
        self.console = Console(width=None if sys.stdout.isatty() else 140)
        self.content: dict[str, Any] = {
            "benchmark": name,
            "command": " ".join(["python", *sys.argv]),
            "started": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            "machine": platform.platform(),
            "cores": os.cpu_count(),
            "versions": devices.versions(),
            "load_average_before": os.getloadavg(),
            "results": [],
        }

    def times(self, title: str, results: Sequence[Measurement], samples: int = 1) -> None:
        """Seconds by phase of one or two sides, their ratios, memory and facts, for runs of so many samples."""
        ratios: dict[str, Any] = {}
        rows = []
        phases = list(dict.fromkeys(phase for one in results for phase in one.wall if phase != TOTAL))
        for phase in [*phases, TOTAL] if len(phases) > 1 else [TOTAL]:
            seconds = [kind.get(phase, []) for one in results for kind in (one.wall, one.cpu)]
            cells = [f"{statistics.median(values):.3f}" if values else "-" for values in seconds]
            if len(results) > 1:
                ratios[phase] = {"wall": ratio(seconds[0], seconds[2]), "cpu": ratio(seconds[1], seconds[3])}
                cells += ["{:.3f} ({:.3f}-{:.3f})".format(*found) if found else "-" for found in ratios[phase].values()]
            rows.append([phase, *cells])
        heads = ["phase", *(f"{one.name}, {what} s" for one in results for what in ("wall", "CPU"))]
        self.table(title, [*heads, *(["wall ratio (range)", "CPU ratio (range)"] if ratios else [])], rows)
        for one in results:
            parts = [f"{len(one.wall[TOTAL])} rounds", f"peak {one.peak_bytes / GIB:.2f} GiB"]
            if samples > 1:
                phase = "samples" if "samples" in one.wall else TOTAL
                wall, cpu = (samples / max(statistics.median(kind[phase]), 1e-9) for kind in (one.wall, one.cpu))
                parts.append(f"{wall:.1f} samples/s of wall, {cpu:.1f} of CPU time")
            self.say(f"  {one.name}: " + ", ".join([*parts, *(f"{key} {value}" for key, value in one.facts.items())]))
        if len(results) > 1 and results[1].peak_bytes:
            self.say(f"  peak memory, ours / upstream: {results[0].peak_bytes / results[1].peak_bytes:.3f}")
        sides = [asdict(one) for one in results]
        self._keep({"title": title, "sides": sides, "ratios": ratios, "samples_per_run": samples})

    def counts(self, results: Sequence[Measurement]) -> None:
        """Launches by phase, the bytes of their operands and results, and arithmetic."""
        phases = list(dict.fromkeys(phase for one in results for phase in one.counts["launches"]))
        rows = []
        for phase in [*phases, TOTAL]:
            row = [phase]
            for one in results:
                launches, moved = (
                    sum(number for name, number in one.counts[key].items() if phase in (name, TOTAL))
                    for key in ("launches", "bytes")
                )
                row += [str(launches), f"{moved / 1e9:.2f}"]
            rows.append(row)
        heads = ["phase", *(f"{one.name}, {what}" for one in results for what in ("launches", "GB"))]
        self.table("launches (views are none), and GB that they read and write", heads, rows)
        for one in results:
            self.say(f"  {one.name}: {one.counts['flops'] / 2e9:.0f} GMAC")
        self._keep({"title": "counts", "sides": [{"name": one.name, **one.counts} for one in results]})

    def table(self, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table whose first column is text."""
        table = Table(title=title, title_justify="left")
        for index, head in enumerate(heads):
            table.add_column(head, justify="right" if index else "left", no_wrap=not index)
        for row in rows:
            table.add_row(*row)
        self.console.print(table)

    def say(self, text: str) -> None:
        """A line."""
        self.console.print(text, highlight=False)

    def close(self) -> None:
        """Print machine, versions and load."""
        self.content["load_average_after"] = os.getloadavg()
        self.say(f"{self.content['cores']} cores, {self.content['machine']}")
        self.say(" ".join(f"{name} {version}" for name, version in self.content["versions"].items()))
        loads = (self.content[f"load_average_{when}"][0] for when in ("before", "after"))
        self.say(
            "load average {:.1f} before, {:.1f} after; CPU seconds do not contain waiting for a core".format(*loads)
        )
        self._keep()

    def _keep(self, *results: dict[str, Any]) -> None:
        self.content["results"] += results
        if self.path is not None:
            write_json(self.path, self.content)
