"""``pivotnet synth OUT``: make a small synthetic data set in nuScenes' format."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from pivotnet.console import long_run
from pivotnet.errors import PivotNetError
from pivotnet.pool import available_cores
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
        help="towns F times as large (%(default)g); 6 gives maps of nuScenes' own size, 60,000 nodes",
    )
    parser.add_argument("--workers", type=int, default=0, metavar="W", help="drawing processes (0: one a usable core)")


def run(args: argparse.Namespace) -> int:
    """Make the data set, or say that it is there already."""
    options = Options(args.scenes, args.samples_per_scene, args.seed, not args.no_images, args.map_scale)
    if args.workers < 0:
        raise PivotNetError(f"--workers {args.workers} is negative; choose 0 (one a usable core) or more")
    workers = args.workers or available_cores()
    started = time.monotonic()
    with long_run("synth") as progress:
        made = generate(args.out, options, workers, progress)
    what = f"{options.scenes} scenes of {options.samples_per_scene} samples, seed {options.seed}"
    if made:
        print(f"{args.out}: {what}, made in {time.monotonic() - started:.1f} s")
    else:
        print(f"{args.out}: {what}, already there")
    return 0
