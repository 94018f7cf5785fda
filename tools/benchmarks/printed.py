"""What a benchmark prints: seconds, ratios, counts, the machine, versions and load."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.turns import TOTAL, Measurement, ratio
from pivotnet import device as devices

GIB = 2**30


def print_times(title: str, results: Sequence[Measurement], samples: int) -> None:
    """Seconds by phase of one or two sides, their ratios and memory, for runs of so many samples."""
    rows = []
    phases = list(dict.fromkeys(phase for one in results for phase in one.wall if phase != TOTAL))
    for phase in [*phases, TOTAL] if len(phases) > 1 else [TOTAL]:
        seconds = [kind.get(phase, []) for one in results for kind in (one.wall, one.cpu)]
        cells = [f"{statistics.median(values):.3f}" if values else "-" for values in seconds]
        if len(results) > 1:
            found = ratio(seconds[0], seconds[2]), ratio(seconds[1], seconds[3])
            cells += ["{:.3f} ({:.3f}-{:.3f})".format(*one) if one else "-" for one in found]
        rows.append([phase, *cells])
    heads = ["phase", *(f"{one.name}, {what} s" for one in results for what in ("wall", "CPU"))]
    print_table(title, [*heads, *(["wall ratio (range)", "CPU ratio (range)"] if len(results) > 1 else [])], rows)
    for one in results:
        parts = [f"{len(one.wall[TOTAL])} rounds", f"peak {one.peak_bytes / GIB:.2f} GiB"]
        if samples > 1:
            wall, cpu = (samples / max(statistics.median(kind[TOTAL]), 1e-9) for kind in (one.wall, one.cpu))
            parts.append(f"{wall:.1f} samples/s of wall, {cpu:.1f} of CPU time")
        print(f"  {one.name}: " + ", ".join(parts))
    if len(results) > 1 and results[1].peak_bytes:
        print(f"  peak memory, ours / upstream: {results[0].peak_bytes / results[1].peak_bytes:.3f}")


def print_counts(results: Sequence[Measurement]) -> None:
    """Launches by phase, and arithmetic."""
    phases = list(dict.fromkeys(phase for one in results for phase in one.counts["launches"]))
    launches = [{**one.counts["launches"], TOTAL: sum(one.counts["launches"].values())} for one in results]
    rows = [[phase, *(str(counts.get(phase, 0)) for counts in launches)] for phase in [*phases, TOTAL]]
    print_table("launches (views are none)", ["phase", *(one.name for one in results)], rows)
    for one in results:
        print(f"  {one.name}: {one.counts['flops'] / 2e9:.0f} GMAC")


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose first column is text."""
    table = Table(title=title, title_justify="left")
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if index else "left", no_wrap=not index)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def print_machine(load_before: float, device: str) -> None:
    """Machine, versions and load."""
    print(f"{devices.device_name(devices.select_device(device))}; {os.cpu_count()} cores, {platform.platform()}")
    print(" ".join(f"{name} {version}" for name, version in devices.versions().items()))
    print(
        f"load average {load_before:.1f} before, {os.getloadavg()[0]:.1f} after; "
        "CPU seconds do not contain waiting for a core"
    )
