#!/usr/bin/env python3
"""How fast, and against what: measure this project, alone or side by side with another checkout.

    python tools/bench.py step       a training step: seconds by phase, memory, launches, arithmetic
    python tools/bench.py criterion  matching and losses alone
    python tools/bench.py annotate   nuScenes tables and maps -> annotated samples
    python tools/bench.py evaluate   result files -> average precision
    python tools/bench.py load       annotated samples and JPEGs -> batches

With --against CHECKOUT (of upstream, unmodified) both sides take turns, each in a process of its own, on this CPU;
without it ours alone is measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

from benchmarks import SEED, file_inputs, file_tasks, train_tasks  # noqa: E402
from benchmarks.printed import GIB, print_counts, print_machine, print_table, print_times  # noqa: E402
from benchmarks.turns import TOTAL, Measurement, Task, take_turns  # noqa: E402
from recordings import inputs, shim  # noqa: E402

from pivotnet.commands import positive  # noqa: E402
from pivotnet.config import PRESETS  # noqa: E402
from pivotnet.errors import PivotNetError  # noqa: E402
from pivotnet.synthetic.plan import Options  # noqa: E402

MAP_SCALE = 6.0  # of the towns that are annotated: maps of nuScenes' size


def run_step(args: argparse.Namespace) -> None:
    """A training step: seconds by phase, memory, launches, arithmetic."""
    ours = partial(
        train_tasks.our_step,
        preset_name=args.preset,
        checkpointing=args.checkpointing,
        device=args.device,
        amp=torch.bfloat16 if args.amp == "bf16" else None,
        graph=args.graph,
    )
    upstream = partial(train_tasks.upstream_step, preset_name=args.preset)
    _measure_sizes(args, f"step of {args.preset}", ours, upstream)


def run_criterion(args: argparse.Namespace) -> None:
    """Matching and losses alone, on random predictions and drawn targets."""
    ours = partial(train_tasks.our_criterion, device=args.device)
    _measure_sizes(args, "criterion", ours, train_tasks.upstream_criterion)


def run_annotate(args: argparse.Namespace) -> None:
    """nuScenes tables and maps -> annotated samples, on one core."""
    if args.against and not args.converter_python:
        raise PivotNetError(
            "upstream's converter needs shapely 1: name a Python that has it, nuscenes-devkit 1.1.11, numpy < 2, "
            "opencv, visvalingamwyatt and torch by --converter-python"
        )
    root = file_inputs.make_tree(args.data, "maps", Options(args.scenes, 16, SEED, False, MAP_SCALE))
    count = args.scenes * 16
    ours = partial(file_tasks.our_annotation, root=root)
    upstream = partial(file_tasks.upstream_annotation, root=root, samples=count, python=args.converter_python)
    _measure(args, f"annotate {count} samples, one core", count, ours, upstream)


def run_evaluate(args: argparse.Namespace) -> None:
    """Result files -> average precision, on one core."""
    root = args.data / "results"
    tokens = file_inputs.write_results(root, args.samples)
    sides = [
        partial(make, root=root, tokens=tokens) for make in (file_tasks.our_evaluation, file_tasks.upstream_evaluation)
    ]
    _measure(args, f"evaluate {args.samples} samples, one core", args.samples, *sides)


def run_load(args: argparse.Namespace) -> None:
    """Annotated samples and JPEGs -> batches, by number of workers."""
    root = file_inputs.make_tree(args.data, "images", Options(args.scenes, 4, SEED, True, 1.0))
    tokens = file_inputs.annotated_tokens(root) * 2
    for workers in args.workers:
        sides = [
            partial(make, root=root, tokens=tokens, preset_name=args.preset, workers=workers)
            for make in (file_tasks.our_loading, file_tasks.upstream_loading)
        ]
        _measure(args, f"load {len(tokens)} samples, {workers} workers", len(tokens), *sides)


def _measure_sizes(
    args: argparse.Namespace, name: str, ours: Callable[..., Task], upstream: Callable[..., Task]
) -> None:
    """Measure every case and batch size, upstream where the batch size is 1, and list them."""
    if args.against and 1 not in args.batch_sizes:
        raise PivotNetError(f"--batch-sizes {args.batch_sizes}: upstream knows 1 only; add it, or leave --against out")
    rows = []
    for case in args.cases:
        for size in args.batch_sizes:
            sides = [partial(ours, case=case, batch_size=size)]
            if size == 1:
                sides.append(partial(upstream, case=case))
            one = _measure(args, f"{name}, targets {case}, batch {size}", size, *sides)
            wall, cpu = (statistics.median(seconds[TOTAL]) / size for seconds in (one.wall, one.cpu))
            launches = sum(one.counts.get("launches", {}).values()) / size
            rows.append(
                [case, str(size), f"{wall:.3f}", f"{cpu:.3f}", f"{launches:.0f}", f"{one.peak_bytes / GIB:.2f}"]
            )
    if len(rows) > 1:
        heads = ("targets", "batch", "wall s a sample", "CPU s a sample", "launches a sample", "peak GiB of the batch")
        print_table("ours by targets and batch size", heads, rows)


def _measure(
    args: argparse.Namespace,
    title: str,
    samples: int,
    ours: Callable[..., Task],
    upstream: Callable[..., Task] | None = None,
) -> Measurement:
    """Measure one or both sides, print that, and return ours."""
    sides = {"ours": ours}
    if args.against and upstream:
        sides["upstream"] = partial(upstream, checkout=args.against)
    results = take_turns(sides, args.threads, args.rounds, args.warmup, count=args.count)
    print_times(title, results, samples)
    if args.count:
        print_counts(results)
    return results[0]


def build_parser() -> argparse.ArgumentParser:
    """All benchmarks' options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    benchmarks = parser.add_subparsers(dest="benchmark", required=True)
    for name, run in BENCHMARKS.items():
        sub = benchmarks.add_parser(name, help=(run.__doc__ or "").splitlines()[0])
        sub.set_defaults(run=run, threads=1, count=False, preset="swint")
        add = sub.add_argument
        add("--against", type=Path, metavar="CHECKOUT", help="a checkout of upstream (default: ours alone)")
        add("--rounds", type=positive, default=3, help="measured turns of each side (3)")
        add("--warmup", type=int, default=1, help="turns before them (1)")
        if name in ("step", "criterion"):
            cases = "drawn targets; typical has 6 dividers, 3 crossings, 4 boundaries, dense 20, 25, 15"
            add("--cases", nargs="+", choices=tuple(inputs.CASES), default=["typical"], help=cases)
            add("--batch-sizes", nargs="+", type=positive, default=[1], help="ours; upstream knows 1")
            add("--threads", type=positive, default=2, help="torch's threads (2)")
            add("--device", default="cpu", help="of ours: npu, cuda, cpu (cpu)")
            add("--no-count", action="store_false", dest="count", default=True, help="count no launches and MACs")
        else:
            kept = Path(tempfile.gettempdir()) / "pivotnet-bench"
            add("--data", type=Path, default=kept, metavar="DIR", help="where inputs are made and kept (%(default)s)")
        if name in ("step", "load"):
            add("--preset", choices=tuple(PRESETS), help="(swint)")
        if name in ("annotate", "load"):
            add("--scenes", type=positive, default=4, help="of the data set (4)")
        if name == "step":
            add("--checkpointing", action="store_true", help="ours recomputes activations, as upstream does")
            add("--amp", choices=("none", "bf16"), default="none", help="of ours (none)")
            add("--graph", action="store_true", help="ours as captured graphs, as train's --graph; with --no-count")
        elif name == "annotate":
            add("--converter-python", help="for upstream's converter: shapely 1, nuscenes-devkit 1.1.11")
        elif name == "evaluate":
            add("--samples", type=positive, default=24, help="drawn samples of 13 lines (24)")
        elif name == "load":
            add("--workers", nargs="+", type=int, default=[0], help="loading processes (0)")
    return parser


BENCHMARKS = {
    "step": run_step,
    "criterion": run_criterion,
    "annotate": run_annotate,
    "evaluate": run_evaluate,
    "load": run_load,
}


def main() -> int:
    """Parse the command line and run a benchmark; returns the exit status."""
    args = build_parser().parse_args()
    try:
        if args.against and args.preset not in shim.PRESETS:
            raise PivotNetError(f"--preset {args.preset}: upstream has {', '.join(shim.PRESETS)}")
        load_before = os.getloadavg()[0]
        args.run(args)
        print_machine(load_before)
    except PivotNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
