"""The benchmarks step and criterion of tools/bench.py: their options, and what is measured and shown."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any, Optional

from recordings import inputs

from benchmarks.criterion import BACKWARD, OtherCriterion, OurCriterion
from benchmarks.options import positive
from benchmarks.other import describe
from benchmarks.pair import TOTAL, Measurement, Ratio, Side, measure
from benchmarks.report import GIB, Report
from benchmarks.step import OtherStep, OurStep, machine_rates
from pivotnet.config import PRESETS
from pivotnet.errors import PivotNetError

CARD_BYTES = 64e9  # of memory on the cards that the port is for
CHECKPOINTING = {"default": None, "on": True, "off": False}


def _add_sample_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cases",
        nargs="+",
        choices=tuple(inputs.CASES),
        default=["typical"],
        help="drawn targets; typical has 6 dividers, 3 crossings, 4 boundaries, dense 20, 25, 15 (default typical)",
    )
    parser.add_argument("--batch-sizes", nargs="+", type=positive, default=[1], help="ours; the other knows 1")
    parser.add_argument("--device", default="cpu", help="of ours: npu, cuda, cpu (default cpu)")


def configure_step(parser: argparse.ArgumentParser) -> None:
    """Options of ``step``."""
    _add_sample_options(parser)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="swint", help="default: swint")
    parser.add_argument("--checkpointing", choices=tuple(CHECKPOINTING), default="default", help="of ours")
    parser.add_argument("--amp", choices=("none", "bf16"), default="none", help="of ours (default none)")
    parser.add_argument("--single", choices=("none", "graph"), default="none", help="of ours: train's --graph")
    parser.add_argument("--no-count", action="store_true", help="leave operators and arithmetic out")


def run_step(args: argparse.Namespace) -> None:
    """A training step: seconds by phase, memory, operators, arithmetic."""
    report = Report("step", args.json)
    others = {}
    if args.against:
        others = {"checkout": args.against, "preset_name": args.preset, "seed": args.seed}
    ours = {
        "preset_name": args.preset,
        "seed": args.seed,
        "checkpointing": CHECKPOINTING[args.checkpointing],
        "device": args.device,
        "amp": args.amp,
        "single": args.single,
    }
    measured = _over_sizes(args, report, (OurStep, ours), (OtherStep, others), count=not args.no_count)
    if not args.no_count:
        _show_tensors(report, measured)
        _show_floors(args, report, measured)
    if len(set(args.batch_sizes)) > 1:
        show_memory(report, measured)
    report.close()


def configure_criterion(parser: argparse.ArgumentParser) -> None:
    """Options of ``criterion``."""
    _add_sample_options(parser)
    parser.add_argument("--count", action="store_true", help="count operators too")


def run_criterion(args: argparse.Namespace) -> None:
    """Matching and losses alone, on random predictions and drawn targets."""
    report = Report("criterion", args.json)
    others = {"checkout": args.against, "seed": args.seed} if args.against else {}
    ours = {"seed": args.seed, "device": args.device}
    measured = _over_sizes(args, report, (OurCriterion, ours), (OtherCriterion, others), count=args.count)
    for (case, _), pair in measured.items():
        if len(pair) == 1:
            continue
        without = [_without(one, BACKWARD) for one in pair]
        ratios = [
            Ratio.of(getattr(without[0], kind)[TOTAL], getattr(without[1], kind)[TOTAL]) for kind in ("wall", "cpu")
        ]
        told = [f"{ratio.median:.3f} ({ratio.least:.3f}-{ratio.most:.3f})" for ratio in ratios if ratio]
        report.say(f"{case}: forward with targets, ours / other: {told[0]} of wall, {told[1]} of CPU time")
    report.close()


def _without(one: Measurement, phase: str) -> Measurement:
    """The measurement with that phase taken out of its total."""
    result = Measurement(one.name)
    phases = [name for name in one.wall if name not in (phase, TOTAL)]
    for number in range(len(one.wall[TOTAL])):
        result.add({name: (one.wall[name][number], one.cpu[name][number]) for name in phases})
    return result


Built = tuple[Callable[..., Any], dict[str, Any]]


def _over_sizes(
    args: argparse.Namespace, report: Report, ours: Built, other: Built, count: bool
) -> dict[tuple[str, int], list[Measurement]]:
    """Measure every case and batch size, the other side wherever the batch size is 1.

    Raises:
        PivotNetError: the other side would not be measured at all, or a side failed.
    """
    if other[1] and 1 not in args.batch_sizes:
        raise PivotNetError(f"--against: {args.against} knows batch size 1 only; give it among --batch-sizes")
    measured = {}
    name = " of ".join([report.content["benchmark"], *([args.preset] if "preset" in args else [])])
    for case in args.cases:
        for batch_size in args.batch_sizes:
            sides = [Side("ours", ours[0], {**ours[1], "case": case, "batch_size": batch_size})]
            if other[1] and batch_size == 1:
                sides.append(Side(describe(args.against), other[0], {**other[1], "case": case}))
            title = f"{name}, targets {case}, batch {batch_size}"
            results = measure(
                sides,
                rounds=args.rounds,
                warmup=args.warmup,
                threads=args.threads,
                timed=partial(report.pair, title, per=batch_size),
                counted=report.operators if count else None,
            )
            measured[case, batch_size] = results
    if len(measured) > 1:
        show_scaling(args.seed, report, measured)
    return measured


def show_scaling(seed: int, report: Report, measured: dict[tuple[str, int], list[Measurement]]) -> None:
    """Seconds and operators of ours over targets and batch sizes, each by those of as many samples of the first."""
    first_case, first_size = next(iter(measured))
    first = measured[first_case, first_size][0]
    rows = []
    for (case, batch_size), (one, *_) in measured.items():
        samples = batch_size / first_size
        points = sum(int(lengths.sum()) for lengths in inputs.target(seed, case)["valid_len"].values())
        for phase in one.cpu:
            cells: list[Any] = [case, sum(inputs.CASES[case]), points, batch_size, phase]
            for kind in ("wall", "cpu"):
                seconds, base = (statistics.median(getattr(side, kind)[phase]) for side in (one, first))
                cells += [seconds, seconds / (samples * base) if base else 0.0]
            counts, bases = (_operators(side, phase) for side in (one, first))
            cells += [counts if counts else "-", counts / (samples * bases) if bases else "-"]
            rows.append(cells)
    heads = ("targets", "its lines", "its points", "batch", "phase", "wall s", "by", "CPU s", "by", "operators", "by")
    report.table(f"scaling of ours; by: a sample of it by a sample of {first_case}, batch {first_size}", heads, rows)


def _operators(one: Measurement, phase: str) -> int:
    """Operators of a phase; 0 where none were counted."""
    counts = (one.operators or {}).get("by_phase", {})
    return sum(counts.values()) if phase == TOTAL else counts.get(phase, 0)


def show_memory(report: Report, measured: dict[tuple[str, int], list[Measurement]]) -> None:
    """Memory as a straight line over the batch size, and where it meets a card's.

    Of tensors where they were counted, as a card's allocator would count them; else of the device or the process.
    """
    sizes = sorted({size for _, size in measured})
    case = next(iter(measured))[0]
    ours = [measured[case, size][0] for size in sizes]
    peaks = [(one.operators or {}).get("peak_tensor_bytes", 0) for one in ours]
    what = "memory of tensors"
    if not all(peaks):
        peaks, what = [one.peak_bytes for one in ours], "peak memory"
    slope = (peaks[-1] - peaks[0]) / (sizes[-1] - sizes[0])
    rest = peaks[0] - slope * sizes[0]
    largest = int((CARD_BYTES - rest) // slope) if slope > 0 else 0
    heads = ("GiB a sample", "GiB besides", "largest batch in 64 GB (estimated)")
    report.table(f"{what}, ours, from batches {sizes[0]} and {sizes[-1]}", heads, [(slope / GIB, rest / GIB, largest)])


def _show_tensors(report: Report, measured: dict[tuple[str, int], list[Measurement]]) -> None:
    """Bytes of tensors at the most, as a card's allocator would count them."""
    rows = []
    for (case, batch_size), sides in measured.items():
        peaks = [(one.operators or {}).get("peak_tensor_bytes", 0) for one in sides]
        for one, peak in zip(sides, peaks):
            if peak:
                kept = (one.operators or {})["kept_tensor_bytes"]
                share = peaks[0] / peak
                checkpointing = one.facts["checkpointing"]
                rows.append((case, batch_size, one.name, checkpointing, peak / GIB, kept / GIB, share))
    heads = ("targets", "batch", "side", "checkpointing", "GiB at the most", "GiB kept between steps", "ours by it")
    if rows:
        report.table("memory of tensors in a step", heads, rows)


def _show_floors(args: argparse.Namespace, report: Report, measured: dict[tuple[str, int], list[Measurement]]) -> None:
    """Arithmetic and bytes of the first step by what this CPU reaches at its best."""
    rates = machine_rates(args.threads)
    rows = []
    for one in next(iter(measured.values())):
        counts: Optional[dict[str, Any]] = one.operators
        if counts is None:
            continue
        moved = sum(counts["bytes"].values())
        floors = (counts["flops"] / rates["flops"], moved / rates["bytes"])
        rows.append((one.name, counts["flops"] / 2e9, moved / 1e9, *floors, statistics.median(one.cpu[TOTAL])))
    heads = (
        "side",
        "GMAC a step",
        "GB read and written",
        "CPU s for the MACs",
        "CPU s for the bytes",
        "measured CPU s",
    )
    title = (
        f"floors: a CPU second gives {rates['flops'] / 1e9:.0f} GFLOP of a matrix product, or copies "
        f"{rates['bytes'] / 1e9:.1f} GB"
    )
    report.table(title, heads, rows)
