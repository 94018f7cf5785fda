#!/usr/bin/env python3
"""How fast, and against what: measure this project, alone or side by side with another checkout.

    python tools/bench.py step       a training step: seconds by phase, memory, launches, arithmetic
    python tools/bench.py criterion  matching and losses alone, on random predictions and drawn targets

With --against CHECKOUT (of upstream, unmodified) both sides take turns, each in a process of its own, on this CPU;
without it ours alone is measured.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
from functools import partial
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

from benchmarks import train_tasks  # noqa: E402
from benchmarks.printed import GIB, print_counts, print_machine, print_table, print_times  # noqa: E402
from benchmarks.turns import TOTAL, take_turns  # noqa: E402
from recordings import inputs, shim  # noqa: E402

from pivotnet.commands import OptionParser, batch_size, positive, whole  # noqa: E402
from pivotnet.config import PRESETS  # noqa: E402
from pivotnet.errors import PivotNetError, run_command  # noqa: E402


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
        results = take_turns(sides, args.threads, args.rounds, args.warmup, count=args.count)
        print_times(f"{name}, targets {case}, batch {size}", results, size)
        if args.count:
            print_counts(results)
        one = results[0]
        wall, cpu = (statistics.median(seconds[TOTAL]) / size for seconds in (one.wall, one.cpu))
        launches = sum(one.counts.get("launches", {}).values()) / size
        rows.append([case, str(size), f"{wall:.3f}", f"{cpu:.3f}", f"{launches:.0f}", f"{one.peak_bytes / GIB:.2f}"])
    if len(rows) > 1:
        heads = ("targets", "batch", "wall s a sample", "CPU s a sample", "launches a sample", "peak GiB of the batch")
        print_table("ours by targets and batch size", heads, rows)


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
        add("--no-count", action="store_false", dest="count", help="count no launches and MACs")
    step.add_argument("--preset", choices=tuple(PRESETS), default="swint", help="(swint)")
    step.add_argument("--checkpointing", action="store_true", help="ours recomputes activations, as upstream does")
    step.add_argument("--amp", choices=("none", "bf16"), default="none", help="of ours (none)")
    step.add_argument("--graph", action="store_true", help="ours as captured graphs; with --no-count")
    return parser


def main() -> int:
    """Parse the command line and run a benchmark; returns the exit status."""
    return run_command(_run)


def _run() -> int:
    args = build_parser().parse_args()
    load_before = os.getloadavg()[0]
    measure(args)
    print_machine(load_before, args.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
