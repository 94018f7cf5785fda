"""The benchmarks annotate, evaluate and load of tools/bench.py: their options, and what is measured and shown."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.data import (
    SAMPLES,
    OtherAnnotation,
    OtherEvaluation,
    OtherLoading,
    OurAnnotation,
    OurEvaluation,
    OurLoading,
)
from benchmarks.data_set import annotated_tokens, link_tree, make_tree, write_pickled, write_results
from benchmarks.options import natural, positive
from benchmarks.other import describe
from benchmarks.pair import Measurement, Side, measure
from benchmarks.report import Report
from pivotnet.config import PRESETS
from pivotnet.errors import PivotNetError


def configure_evaluate(parser: argparse.ArgumentParser) -> None:
    """Options of ``evaluate``."""
    _add_folder(parser)
    parser.add_argument("--samples", type=positive, default=24, help="drawn samples of 13 lines (default 24)")


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(tempfile.gettempdir()) / "pivotnet-bench",
        metavar="DIR",
        help="where synthetic data sets are made, and kept for the next time (default: %(default)s)",
    )


def _add_data_set(parser: argparse.ArgumentParser, per_scene: int) -> None:
    _add_folder(parser)
    parser.add_argument("--scenes", type=positive, default=4, help="of the data set (default 4)")
    parser.add_argument("--samples-per-scene", type=positive, default=per_scene, help=f"(default {per_scene})")


def configure_annotate(parser: argparse.ArgumentParser) -> None:
    """Options of ``annotate``."""
    _add_data_set(parser, 16)
    parser.add_argument(
        "--map-scale", type=float, default=6.0, help="size of the towns; 6 gives maps of nuScenes' size (default 6)"
    )
    parser.add_argument(
        "--converter-python", help="Python for the other side's converter: shapely 1, nuscenes-devkit 1.1.11"
    )


def configure_load(parser: argparse.ArgumentParser) -> None:
    """Options of ``load``."""
    _add_data_set(parser, 4)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="swint", help="sets the image size (default swint)")
    parser.add_argument("--workers", nargs="+", type=natural, default=[0], help="loading processes (default 0)")
    parser.add_argument("--repeats", type=positive, default=2, help="how often a run loads each sample (default 2)")


def run_annotate(args: argparse.Namespace) -> None:
    """nuScenes tables and maps -> annotated samples, on one core."""
    if args.against and not args.converter_python:
        raise PivotNetError(
            "the other side's converter needs shapely 1: name a Python that has it, nuscenes-devkit 1.1.11, numpy < 2, "
            "opencv, visvalingamwyatt and torch by --converter-python"
        )
    report = Report("annotate", args.json)
    root = make_tree(args.data, args.scenes, args.samples_per_scene, args.seed, False, args.map_scale)
    count = args.scenes * args.samples_per_scene
    sides = [Side("ours", OurAnnotation, {"root": root})]
    if args.against:
        options = {"checkout": args.against, "root": link_tree(root), "samples": count, "python": args.converter_python}
        sides.append(Side(describe(args.against), OtherAnnotation, options))
    title = f"annotate {count} samples, maps of scale {args.map_scale:g}, one core"
    timed = partial(report.pair, title, per=count, rate_of=SAMPLES)
    measure(sides, rounds=args.rounds, warmup=args.warmup, threads=1, timed=timed)
    report.close()


def run_evaluate(args: argparse.Namespace) -> None:
    """Result files -> average precision, on one core."""
    report = Report("evaluate", args.json)
    root = args.data / "results"
    tokens = write_results(root, args.samples, args.seed)
    sides = [Side("ours", OurEvaluation, {"root": root, "tokens": tokens})]
    if args.against:
        options = {"checkout": args.against, "root": root, "tokens": tokens}
        sides.append(Side(describe(args.against), OtherEvaluation, options))
    timed = partial(report.pair, f"evaluate {len(tokens)} samples, one core", per=len(tokens))
    measure(sides, rounds=args.rounds, warmup=args.warmup, threads=1, timed=timed)
    report.close()


def run_load(args: argparse.Namespace) -> None:
    """Annotated samples and JPEGs -> batches, by number of workers."""
    report = Report("load", args.json)
    root = make_tree(args.data, args.scenes, args.samples_per_scene, args.seed, True, 1.0)
    tokens = annotated_tokens(root)
    write_pickled(root, tokens)
    loaded = tokens * args.repeats
    rows: list[tuple[Any, ...]] = []
    for workers in args.workers:
        options = {"root": root, "tokens": loaded, "preset_name": args.preset, "workers": workers}
        sides = [Side("ours", OurLoading, options)]
        if args.against:
            sides.append(Side(describe(args.against), OtherLoading, {**options, "checkout": args.against}))
        timed = partial(report.pair, f"load {len(loaded)} samples, {workers} workers", per=len(loaded))
        results = measure(sides, rounds=args.rounds, warmup=args.warmup, threads=1, timed=timed)
        rows += [_rate(workers, one, len(loaded)) for one in results]
    if len(args.workers) > 1:
        report.table("samples a second by workers", ("workers", "side", "of wall time", "of CPU time"), rows)
    report.close()


def _rate(workers: int, one: Measurement, count: int) -> tuple[Any, ...]:
    wall, cpu = (count / statistics.median(seconds[SAMPLES]) for seconds in (one.wall, one.cpu))
    return workers, one.name, wall, cpu
