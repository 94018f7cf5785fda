"""``pivotnet synth OUT``: make a small synthetic data set in nuScenes' format."""

from __future__ import annotations

import argparse
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Optional

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pivotnet.errors import PivotNetError
from pivotnet.synthetic.generate import generate
from pivotnet.synthetic.plan import Options


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``pivotnet synth``."""
    default = Options()
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the data set; new, or empty")
    parser.add_argument("--scenes", type=int, default=default.scenes, metavar="N", help="drives (%(default)s)")
    parser.add_argument(
        "--samples-per-scene",
        type=int,
        default=default.samples_per_scene,
        metavar="M",
        help="samples of a drive (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=default.seed, metavar="S", help="which data set (%(default)s)")
    parser.add_argument(
        "--no-images", action="store_true", help="tables and maps only; takes a second, but nothing to train on"
    )
    parser.add_argument(
        "--map-scale",
        type=float,
        default=default.map_scale,
        metavar="F",
        help="towns F times as large (%(default)g); 6 gives maps of nuScenes' own size, 75,000 nodes",
    )
    parser.add_argument(
        "--workers", type=int, default=0, metavar="W", help="rendering processes (0: one a usable core)"
    )


def run(args: argparse.Namespace) -> int:
    """Make the data set, or say that it is there already."""
    options = Options(args.scenes, args.samples_per_scene, args.seed, not args.no_images, args.map_scale)
    if args.workers < 0:
        raise PivotNetError(f"--workers {args.workers} is negative; choose 0 (one a usable core) or more")
    workers = args.workers or usable_cores()
    started = time.monotonic()
    made = generate_with_progress(args.out, options, workers)
    told = f"{options.scenes} scenes of {options.samples_per_scene} samples, seed {options.seed}"
    if made:
        print(f"{args.out}: {told}, made in {time.monotonic() - started:.1f} s")
    else:
        print(f"{args.out}: {told}, already there")
    return 0


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def generate_with_progress(folder: Path, options: Options, workers: int) -> bool:
    """:func:`generate` with a progress bar on a terminal; SIGTERM stops it as Ctrl-C does."""
    console = Console(stderr=True)
    columns = (TextColumn("synth"), BarColumn(), MofNCompleteColumn(), TextColumn("samples"), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True)

    def show(done: int, total: int) -> None:
        if not console.is_terminal:
            return
        if not bar.tasks:
            bar.add_task("synth", total=total)
            bar.start()
        bar.update(bar.tasks[0].id, completed=done)

    def stop(signum: int, frame: Optional[FrameType]) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        return generate(folder, options, workers, show)
    finally:
        if bar.tasks:
            bar.stop()
        signal.signal(signal.SIGTERM, previous)
