"""What a benchmark prints and writes: tables, the machine, versions, load, JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional

from rich.console import Console
from rich.table import Table

from benchmarks.pair import TOTAL, Measurement, Ratio
from pivotnet import device as devices
from pivotnet.files import atomic_write

GIB = 2**30


def machine() -> dict[str, Any]:
    """Processor, cores, memory and versions."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(pages / GIB, 1),
        "system": platform.platform(),
        "versions": devices.versions(),
    }


def _ratio(ratio: Optional[Ratio]) -> str:
    return "-" if ratio is None else f"{ratio.median:.3f} ({ratio.least:.3f}-{ratio.most:.3f})"


def _seconds(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f}" if values else "-"


class Report:
    """Prints tables as they come, and keeps all that was measured so far in a JSON file if one is wanted."""

    def __init__(self, name: str, path: Optional[Path]) -> None:
        self.path = path
        self.console = Console(width=None if sys.stdout.isatty() else 140)
        self.content: dict[str, Any] = {
            "benchmark": name,
            "command": " ".join(["python", *sys.argv]),
            "started": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            "machine": machine(),
            "load_average_before": os.getloadavg(),
            "results": [],
        }

    def say(self, text: str) -> None:
        """A line."""
        self.console.print(text, highlight=False)

    def pair(self, title: str, results: Sequence[Measurement], per: int = 1, rate_of: str = TOTAL) -> None:
        """Seconds by phase of one or two sides, their ratios, peak memory, operators.

        Args:
            per: samples of a run; also prints samples a second if there are several.
            rate_of: the phase that these take.
        """
        ours, other = results[0], results[1] if len(results) > 1 else None
        table = Table(title=title if other is None else f"{title}, other = {other.name}", title_justify="left")
        table.add_column("phase", no_wrap=True)
        heads = [f"{side}, {kind} s" for side in ("ours", "other")[: len(results)] for kind in ("wall", "CPU")]
        for head in heads + (["wall ratio (range)", "CPU ratio (range)"] if other else []):
            table.add_column(head, justify="right")
        phases = list(dict.fromkeys(phase for one in results for phase in one.wall if phase != TOTAL))
        ratios: dict[str, Any] = {}
        for phase in [*phases, TOTAL] if len(phases) > 1 else [TOTAL]:
            cells = [_seconds(source.get(phase, [])) for one in results for source in (one.wall, one.cpu)]
            if other:
                found = {
                    kind: Ratio.of(getattr(ours, kind).get(phase, []), getattr(other, kind).get(phase, []))
                    for kind in ("wall", "cpu")
                }
                ratios[phase] = {kind: asdict(ratio) if ratio else None for kind, ratio in found.items()}
                cells += [_ratio(found["wall"]), _ratio(found["cpu"])]
            table.add_row(phase, *cells)
        self.console.print(table)
        for one in results:
            self.say(f"  {one.name}: {self._notes(one, per, rate_of)}")
        if other and other.peak_bytes:
            self.say(f"  peak memory, ours / other: {ours.peak_bytes / other.peak_bytes:.3f}")
        self.content["results"].append(
            {"title": title, "sides": [asdict(one) for one in results], "ratios": ratios, "samples_per_run": per}
        )
        self._keep()

    @staticmethod
    def _notes(one: Measurement, per: int, rate_of: str) -> str:
        rounds = len(one.wall.get(TOTAL, []))
        parts = [
            f"{rounds} rounds",
            f"peak {one.peak_bytes / GIB:.2f} GiB ({one.idle_bytes / GIB:.2f} before the runs)",
        ]
        if per > 1 and rounds:
            rates = [per / max(statistics.median(source[rate_of]), 1e-9) for source in (one.wall, one.cpu)]
            parts.append(f"{rates[0]:.1f} samples/s of wall, {rates[1]:.1f} of CPU time")
        parts += [f"{key} {value}" for key, value in one.facts.items() if not isinstance(value, (dict, list))]
        return ", ".join(parts)

    def operators(self, results: Sequence[Measurement]) -> None:
        """Operators that are not views, and bytes, by phase."""
        counted = [one for one in results if one.operators]
        table = Table(title="operators that are not views, and GB that they read and write", title_justify="left")
        table.add_column("phase", no_wrap=True)
        for one in counted:
            for what in ("operators", "GB"):
                table.add_column(f"{one.name}, {what}", justify="right")
        keys = ("by_phase", "bytes")
        phases = list(dict.fromkeys(p for one in counted for p in one.operators["by_phase"])) if counted else []
        rows = [[(one.operators or {})[key].get(phase, 0) for one in counted for key in keys] for phase in phases]
        for phase, row in [*zip(phases, rows), (TOTAL, [sum(column) for column in zip(*rows)])]:
            table.add_row(phase, *[f"{n / 1e9:.2f}" if i % 2 else str(n) for i, n in enumerate(row)])
        self.console.print(table)
        counts = [{"name": one.name, **(one.operators or {})} for one in counted]
        self.content["results"].append({"title": "operators", "sides": counts})
        self._keep()

    def table(self, title: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Any other table, such as of scaling."""
        table = Table(title=title, title_justify="left")
        for head in heads:
            table.add_column(head, justify="right")
        for row in rows:
            table.add_row(*[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row])
        self.console.print(table)
        self.content["results"].append({"title": title, "columns": list(heads), "rows": [list(row) for row in rows]})
        self._keep()

    def close(self) -> None:
        """Print machine, versions and load."""
        self.content["load_average_after"] = os.getloadavg()
        about = self.content["machine"]
        loads = [
            "/".join(f"{value:.1f}" for value in self.content[f"load_average_{when}"]) for when in ("before", "after")
        ]
        self.say(f"{about['processor']}, {about['cores']} cores, {about['memory_gib']} GiB; {about['system']}")
        self.say(" ".join(f"{name} {version}" for name, version in about["versions"].items()))
        self.say(f"load average {loads[0]} before, {loads[1]} after; CPU seconds do not contain waiting for a core")
        self._keep()

    def _keep(self) -> None:
        if self.path is not None:
            with atomic_write(self.path, "w") as stream:
                json.dump(self.content, stream, indent=1)
                stream.write("\n")
