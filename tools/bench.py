#!/usr/bin/env python3
"""How fast, and against what: measure this project, alone or side by side with another checkout.

    python tools/bench.py step       a training step: seconds by phase, memory, arithmetic
    python tools/bench.py criterion  matching and losses alone, on random predictions and drawn targets

With --against CHECKOUT (of upstream, unmodified) both sides take turns, each in a process of its own, on this CPU;
without it ours alone is measured.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

from benchmarks import train_tasks  # noqa: E402
from benchmarks.turns import TOTAL, Measurement, take_turns  # noqa: E402
from recordings import inputs, shim  # noqa: E402

from pivotnet import device as devices  # noqa: E402
from pivotnet.commands import OptionParser, batch_size, positive, whole  # noqa: E402
from pivotnet.config import PRESETS  # noqa: E402
from pivotnet.errors import PivotNetError, run_command  # noqa: E402

GIB = 2**30


def measure(args: argparse.Namespace) -> None:
    """Measure every case and batch size, upstream where the batch size is 1, and list them.

    Raises:
        PivotNetError: upstream knows no such preset or batch size, or a side fails.
    """
    if args.against and args.preset not in shim.PRESETS:
        raise PivotNetError(f"--preset {args.preset}: upstream has {', '.join(shim.PRESETS)}")
    if args.against and 1 not in args.batch_sizes:
        raise PivotNetError(f"--batch-sizes {args.batch_sizes}: upstream knows 1 only; add it, or leave --against out")
    if args.benchmark == "step":
        name, amp = f"step of {args.preset}", torch.bfloat16 if args.amp == "bf16" else None
        options = {"preset_name": args.preset, "checkpointing": args.checkpointing, "amp": amp, "graph": args.graph}
        ours = partial(train_tasks.our_step, device=args.device, **options)
        upstream = partial(train_tasks.upstream_step, args.against, preset_name=args.preset)
    else:
        name, ours = "criterion", partial(train_tasks.our_criterion, device=args.device)
        upstream = partial(train_tasks.upstream_criterion, args.against)
    rows = []
    for case, size in itertools.product(args.cases, args.batch_sizes):
        sides = {"ours": partial(ours, case=case, batch_size=size)}
        if args.against and size == 1:
            sides["upstream"] = partial(upstream, case=case)
        results = take_turns(sides, args.threads, args.rounds, args.warmup)
        print_times(f"{name}, targets {case}, batch {size}", results, size)
        wall, cpu = results[0].median() / size
        rows.append([case, str(size), f"{wall:.3f}", f"{cpu:.3f}", f"{results[0].peak_bytes / GIB:.2f}"])
    if len(rows) > 1:
        heads = ("targets", "batch", "wall s a sample", "CPU s a sample", "peak GiB of the batch")
        print_table("ours by targets and batch size", heads, rows)


def print_times(title: str, results: Sequence[Measurement], samples: int) -> None:
    """Seconds by phase of one or two sides, and their ratios round by round, for runs of so many samples."""
    phases = list(dict.fromkeys(phase for one in results for phase in one.rounds if phase != TOTAL))
    heads = ["phase", *(f"{one.name}, {what} s" for one in results for what in ("wall", "CPU"))]
    rows = []
    for phase in [*phases, TOTAL] if len(phases) > 1 else [TOTAL]:
        row = [phase]
        for one in results:
            row += [f"{seconds:.3f}" for seconds in one.median(phase)] if phase in one.rounds else ["-", "-"]
        if len(results) > 1:
            row += ratios(*(one.rounds.get(phase, [np.zeros(2)]) for one in results))
        rows.append(row)
    print_table(title, [*heads, "wall ratio (range)", "CPU ratio (range)"][: len(rows[0])], rows)
    for one in results:
        wall, cpu = samples / np.maximum(one.median(), 1e-9)
        print(
            f"  {one.name}: {len(one.rounds[TOTAL])} rounds, peak {one.peak_bytes / GIB:.2f} GiB, "
            f"{one.flops / 2e9:.0f} GMAC, {wall:.1f} samples/s of wall, {cpu:.1f} of CPU time"
        )
    if len(results) > 1 and results[1].peak_bytes:
        print(f"  peak memory, ours / upstream: {results[0].peak_bytes / results[1].peak_bytes:.3f}")


def ratios(ours: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> list[str]:
    """Median, least and largest of ours by other, round by round, of wall and CPU seconds; "-" for a phase that one
    side lacks, or that takes no time."""
    if min(np.min(ours), np.min(other)) <= 0:
        return ["-", "-"]
    columns = np.divide(ours, other).T
    return [f"{np.median(column):.3f} ({column.min():.3f}-{column.max():.3f})" for column in columns]


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose first column is text."""
    table = Table(title=title, title_justify="left")
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if index else "left", no_wrap=not index)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def build_parser() -> argparse.ArgumentParser:
    """Both benchmarks' options."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    benchmarks = parser.add_subparsers(dest="benchmark", required=True)
    step = benchmarks.add_parser("step", help="a training step")
    criterion = benchmarks.add_parser("criterion", help="matching and losses alone")
    criterion.set_defaults(preset="swint")
    for add in (step.add_argument, criterion.add_argument):
        add("--against", type=Path, metavar="CHECKOUT", help="a checkout of upstream (default: ours alone)")
        add("--rounds", type=positive, default=3, help="measured turns of each side (3)")
        add("--warmup", type=whole(0), default=1, help="turns before them (1)")
        cases = "drawn targets; typical has 6 dividers, 3 crossings, 4 boundaries, dense 20, 25, 15"
        add("--cases", nargs="+", choices=tuple(inputs.CASES), default=["typical"], help=cases)
        add("--batch-sizes", nargs="+", type=batch_size, default=[1], help="ours; upstream knows 1")
        add("--threads", type=positive, default=2, help="torch's threads (2)")
        add("--device", default="cpu", help="of ours: npu, cuda, cpu (cpu)")
    step.add_argument("--preset", choices=tuple(PRESETS), default="swint", help="(swint)")
    step.add_argument("--checkpointing", action="store_true", help="ours recomputes activations, as upstream does")
    step.add_argument("--amp", choices=("none", "bf16"), default="none", help="of ours (none)")
    step.add_argument("--graph", action="store_true", help="ours as captured graphs, whose arithmetic is not counted")
    return parser


def main() -> int:
    """Parse the command line and run a benchmark; returns the exit status."""
    return run_command(_run)


def _run() -> int:
    args = build_parser().parse_args()
    load_before = os.getloadavg()[0]
    measure(args)
    print(f"{devices.device_name(devices.select_device(args.device))}; {os.cpu_count()} cores, {platform.platform()}")
    print(" ".join(f"{name} {version}" for name, version in devices.versions().items()))
    load = f"load average {load_before:.1f} before, {os.getloadavg()[0]:.1f} after"
    print(f"{load}; CPU seconds do not contain waiting for a core")
    return 0


if __name__ == "__main__":
    sys.exit(main())
