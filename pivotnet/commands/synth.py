"""``pivotnet synth OUT``: make a small synthetic data set in nuScenes' format."""

import argparse
import dataclasses
import time
from pathlib import Path

from pivotnet.commands import positive, processes, seed
from pivotnet.pool import available_cores
from pivotnet.synthetic.generate import generate
from pivotnet.synthetic.plan import Options


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="folder of the data set; new, or empty")
    add("--scenes", type=positive, metavar="N", help="drives (%(default)s)")
    add("--samples-per-scene", type=positive, metavar="M", help="samples per drive (%(default)s)")
    add("--seed", type=seed, metavar="S", help="which data set (%(default)s)")
    text = "tables and maps only; takes a second, but nothing to train on"
    add("--no-images", dest="images", action="store_false", help=text)
    add("--workers", type=processes, metavar="W", help="drawing processes (one per usable core)")
    parser.set_defaults(**dataclasses.asdict(Options()))


def run(args: argparse.Namespace) -> int:
    options = Options(args.scenes, args.samples_per_scene, args.seed, args.images)
    started = time.monotonic()
    made = generate(args.out, options, args.workers or available_cores())
    what = f"{options.scenes} scenes of {options.samples_per_scene} samples, seed {options.seed}"
    how = f"made in {time.monotonic() - started:.1f} s" if made else "already there"
    print(f"{args.out}: {what}, {how}")
    return 0
