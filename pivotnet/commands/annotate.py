"""The command ``pivotnet annotate``."""

from __future__ import annotations

import argparse
import signal
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pivotnet.annotation.convert import Options
from pivotnet.annotation.runner import Summary, annotate
from pivotnet.config import CLASSES
from pivotnet.files import PathLike


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("-d", "--data-root", required=True, metavar="ROOT", help="nuScenes root folder")
    parser.add_argument(
        "-v", "--version", default="v1.0-trainval", help="v1.0-trainval, v1.0-mini or v1.0-test (default: %(default)s)"
    )
    parser.add_argument("--bezier", action="store_true", help="fit bezier curves too (BeMapNet's targets)")
    parser.add_argument(
        "--distinct-ids",
        action="store_true",
        help="number instances by class in samples with more than 127, whose lines merge in the masks otherwise",
    )
    parser.add_argument("--workers", type=_positive, metavar="N", help="processes (default: one a core)")
    parser.add_argument("--overwrite", action="store_true", help="annotate everything again, keep nothing")


def print_summary(summary: Summary) -> None:
    """The closing lines of a run."""
    instances = ", ".join(f"{name} {count}" for name, count in zip(CLASSES, summary.instances))
    splits = ", ".join(f"{name} {count}" for name, count in summary.splits.items())
    rate = summary.written / summary.seconds if summary.written else 0.0
    print(f"folder     {summary.folder}")
    print(f"samples    {summary.written} written, {summary.kept} kept from before")
    print(f"instances  {instances} (in the written samples)")
    if summary.merging:
        print(
            f"note       {summary.merging} samples have more than 127 instances; the last ones share the id 255 in the "
            "masks unless --distinct-ids is given"
        )
    print(f"splits     {splits}")
    print(f"time       {summary.seconds:.1f} s, {rate:.1f} samples/s")


def annotate_with_progress(
    root: PathLike, version: str, options: Options, workers: int | None = None, overwrite: bool = False
) -> Summary:
    """runner.annotate with a progress bar; SIGTERM stops it as Ctrl-C does."""
    console = Console(stderr=True)
    columns = (
        TextColumn("annotate"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} samples/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console)

    def show(done: int, total: int) -> None:
        if not console.is_terminal:
            return
        if not bar.tasks:  # only now, since its thread must not run while workers are forked
            bar.add_task("annotate", total=total, rate=0.0)
            bar.start()
        elapsed = bar.tasks[0].elapsed or 0.0
        bar.update(bar.tasks[0].id, completed=done, rate=done / elapsed if elapsed else 0.0)

    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        return annotate(root, version, options, workers, overwrite, show)
    finally:
        if bar.tasks:
            bar.stop()
        signal.signal(signal.SIGTERM, previous)


def run(args: argparse.Namespace) -> int:
    """Annotate, with a progress bar and a summary."""
    options = Options(bezier=args.bezier, distinct_ids=args.distinct_ids)
    print_summary(annotate_with_progress(args.data_root, args.version, options, args.workers, args.overwrite))
    return 0
