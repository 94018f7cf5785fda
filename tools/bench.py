#!/usr/bin/env python3
"""How fast, and against what: measure this project, alone or side by side with another checkout.

    python tools/bench.py step       a training step: seconds by phase, memory, arithmetic
    python tools/bench.py criterion  matching and losses alone, on random predictions and drawn targets

With --against CHECKOUT (of upstream, unmodified) the sides take turns, each in a process of its own, on a CPU or a GPU
(for which upstream's operator is compiled: nvcc and ninja are needed). Loss and gradient for the same weights and
inputs are compared, too. Without it ours alone is measured."""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.linalg import norm
from rich.console import Console
from rich.table import Table

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

from benchmarks import train_tasks  # noqa: E402
from benchmarks.turns import TOTAL, Gradients, Measurement, Task, take_turns  # noqa: E402
from recordings import inputs, shim  # noqa: E402

from pivotnet import device as devices  # noqa: E402
from pivotnet.commands import OptionParser, batch_size, positive, whole  # noqa: E402
from pivotnet.config import PRESETS  # noqa: E402
from pivotnet.console import interrupted_by_sigterm  # noqa: E402
from pivotnet.errors import PivotNetError, run_command  # noqa: E402
from pivotnet.training.loop import AMP  # noqa: E402

GIB = 2**30
QUANTILES = {"median": 0.5, "95 %": 0.95, "worst": 1.0}


@interrupted_by_sigterm()
def measure(args: argparse.Namespace) -> None:
    """Measure every preset, case and batch size, upstream where the batch size is 1, and list them. Raises
    PivotNetError: upstream knows no such preset or batch size, nothing can be profiled, or a side fails."""
    if args.against and (unknown := [name for name in args.presets if name not in shim.PRESETS]):
        raise PivotNetError(f"--presets {unknown[0]}: upstream has {', '.join(shim.PRESETS)}")
    if args.against and 1 not in args.batch_sizes:
        raise PivotNetError(f"--batch-sizes {args.batch_sizes}: upstream knows 1 only; add it, or leave --against out")
    if args.profile and torch.device(args.device).type != "cuda":
        raise PivotNetError(f"--profile with --device {args.device}: it lists the kernels of a GPU; give --device cuda")
    if args.against:
        shim.find_checkout(args.against)
    rows, equal = [], []
    with tempfile.TemporaryDirectory(prefix="pivotnet-operator-") as folder:
        for preset, case, size in itertools.product(args.presets, args.cases, args.batch_sizes):
            sides = _sides(args, preset, case, size, Path(folder))
            compared = "upstream" in sides and args.benchmark == "step"
            extras = {name: ["profile"] if args.profile else [] for name in sides}
            for name in (next(iter(sides)), "upstream") if compared else ():
                extras[name].append("gradients")
            results = take_turns(sides, args.threads, args.rounds, args.warmup, extras=extras)
            title = f"{args.benchmark} of {preset}, targets {case}, batch {size}"
            print_columns(
                f"{title}: wall and CPU s", [{p: one.median(p) for p in one.rounds} for one in results], sides
            )
            if args.profile:
                print_columns(f"{title}: number and ms on the card", [one.extras["profile"] for one in results], sides)
            if compared:
                ours, upstream = (one.extras["gradients"] for one in results if "gradients" in one.extras)
                equal.append([preset, case, *equality(ours, upstream)])
            rows += [[preset, case, str(size), *summary(one, results, size)] for one in results]
    times = ("mean s", "median s", "range", "CPU s", "samples/s", "peak GiB", "GMAC")
    against = ("wall / upstream (range)", "CPU / upstream (range)", "memory / upstream") if args.against else ()
    print_table(args.benchmark, ("preset", "targets", "batch", "side", *times, *against), rows)
    if equal:
        heads = ("loss", "gradient", *(f"of a parameter: {name}" for name in QUANTILES))
        print_table("ours and upstream's, relative difference, float32", ("preset", "targets", *heads), equal)


def equality(ours: Gradients, upstream: Gradients) -> list[str]:
    """Relative differences of the loss, of the whole gradient and of each parameter's, by their norms."""
    (loss, gradients), (expected_loss, expected) = ours, upstream
    if gradients.keys() != expected.keys():
        raise PivotNetError(f"only one side has gradients of {sorted(gradients.keys() ^ expected.keys())}")
    differences, sizes = np.array([(norm(expected[key] - gradients[key]), norm(expected[key])) for key in expected]).T
    each = np.quantile(differences / np.maximum(sizes, 1e-30), list(QUANTILES.values()))
    return [f"{value:.1e}" for value in (abs(loss / expected_loss - 1), norm(differences) / norm(sizes), *each)]


def _sides(args: argparse.Namespace, preset: str, case: str, size: int, folder: Path) -> dict[str, Callable[[], Task]]:
    """How to make each side's task, by name; upstream last, whose operator is compiled in ``folder``."""
    common = {"case": case, "device": args.device}
    if args.benchmark == "criterion":
        sides = {"ours": partial(train_tasks.our_criterion, batch_size=size, **common)}
        upstream = partial(train_tasks.upstream_criterion, args.against, folder=folder, **common)
    else:
        sides = {}
        for amp, graph in itertools.product(args.amp, [False, True] if args.graph else [False]):
            name = " ".join(["ours", *([amp] if AMP[amp] else []), *(["graph"] if graph else [])])
            options = {"preset_name": preset, "checkpointing": args.checkpointing, **common}
            sides[name] = partial(train_tasks.our_step, batch_size=size, amp=AMP[amp], graph=graph, **options)
        upstream = partial(train_tasks.upstream_step, args.against, preset, folder=folder, **common)
    return {**sides, "upstream": upstream} if args.against and size == 1 else sides


def print_columns(title: str, found: Sequence[dict[str, np.ndarray]], sides: Iterable[str]) -> None:
    """Two numbers of each side by phase or group, which a side may lack."""
    names = list(dict.fromkeys(name for one in found for name in one if name != TOTAL))
    rows = [[name, *(_pair(one.get(name)) for one in found)] for name in names]
    print_table(title, ("", *sides), rows)


def _pair(numbers: np.ndarray | None) -> str:
    return "-" if numbers is None else f"{numbers[0]:.4g}  {numbers[1]:.3f}"


def summary(one: Measurement, results: Sequence[Measurement], samples: int) -> list[str]:
    """A side's name and figures, and how it compares with upstream, the last of ``results`` if it was measured."""
    wall, other = np.array(one.rounds[TOTAL])[:, 0], results[-1]
    times = [f"{wall.mean():.3f}", f"{np.median(wall):.3f}", f"{wall.min():.3f}-{wall.max():.3f}"]
    rate = [f"{one.median()[1]:.3f}", f"{samples / max(np.median(wall), 1e-9):.1f}"]
    found = [one.name, *times, *rate, f"{one.peak_bytes / GIB:.2f}", f"{one.flops / 2e9:.0f}"]
    if other.name != "upstream" or one is other:
        return found
    memory = f"{one.peak_bytes / other.peak_bytes:.3f}" if other.peak_bytes else "-"
    return [*found, *ratios(one.rounds[TOTAL], other.rounds[TOTAL]), memory]


def ratios(ours: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> list[str]:
    """Median, least and largest of ours by other, round by round, of wall and CPU seconds; "-" for a phase that one
    side lacks, or that takes no time."""
    if min(np.min(ours), np.min(other)) <= 0:
        return ["-", "-"]
    return [f"{np.median(column):.3f} ({column.min():.3f}-{column.max():.3f})" for column in np.divide(ours, other).T]


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose first column is text."""
    table = Table(title=title, title_justify="left")
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if index else "left", no_wrap=not index)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 170).print(table)


def build_parser() -> argparse.ArgumentParser:
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    benchmarks = parser.add_subparsers(dest="benchmark", required=True)
    step = benchmarks.add_parser("step", help="a training step")
    criterion = benchmarks.add_parser("criterion", help="matching and losses alone")
    criterion.set_defaults(presets=["swint"], profile=False)
    for add in (step.add_argument, criterion.add_argument):
        add("--against", type=Path, metavar="CHECKOUT", help="a checkout of upstream (default: ours alone)")
        add("--rounds", type=positive, default=3, help="measured turns of each side (3)")
        add("--warmup", type=whole(0), default=1, help="turns before them (1)")
        cases = "drawn targets; typical has 6 dividers, 3 crossings, 4 boundaries, dense 20, 25, 15"
        add("--cases", nargs="+", choices=tuple(inputs.CASES), default=["typical"], help=cases)
        add("--batch-sizes", nargs="+", type=batch_size, default=[1], help="of ours (1); upstream is measured with 1")
        add("--threads", type=positive, default=2, help="torch's threads (2)")
        add("--device", default="cpu", help="npu, cuda, cpu; upstream runs on the last two (cpu)")
    step.add_argument("--presets", nargs="+", choices=tuple(PRESETS), default=["swint"], help="networks (swint)")
    step.add_argument("--checkpointing", action="store_true", help="ours recomputes activations, as upstream does")
    step.add_argument("--amp", nargs="+", choices=tuple(AMP), default=["none"], help="precisions of ours (none)")
    step.add_argument("--graph", action="store_true", help="also measure ours as captured graphs; GMAC leaves them out")
    step.add_argument("--profile", action="store_true", help="list what a GPU does in a step, by kind of kernel")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    load_before, device = os.getloadavg()[0], devices.select_device(args.device)
    measure(args)
    print(f"{devices.device_name(device)}; {os.cpu_count()} cores, {platform.platform()}")
    print(" ".join(f"{name} {version}" for name, version in devices.versions().items()))
    load = f"load average {load_before:.1f} before, {os.getloadavg()[0]:.1f} after"
    print(f"{load}; CPU seconds do not contain waiting for a core")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
