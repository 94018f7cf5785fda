#!/usr/bin/env python3
"""Equal to upstream? Compare this project with recordings of upstream, or make new recordings.

python tools/golden.py check DIR                                 compare; exit 1 when anything differs or is missing
python tools/golden.py record --upstream CHECKOUT --out DIR      run the pinned upstream on this CPU and record it
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

from recordings import suite  # noqa: E402
from recordings.comparison import print_table  # noqa: E402
from rich.console import Console  # noqa: E402

from pivotnet.commands import OptionParser, seed  # noqa: E402
from pivotnet.errors import run_command  # noqa: E402


def main() -> int:
    """Parse the command line and run one of the two commands; returns the exit status."""
    return run_command(_run)


def _run() -> int:
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recorder = commands.add_parser("record", help="record upstream")
    recorder.add_argument("--upstream", type=Path, required=True, help="checkout of upstream at the pinned commit")
    recorder.add_argument("--out", type=Path, required=True, help="folder for the recordings")
    recorder.add_argument("--seed", type=seed, default=1234, help="seed of images, cameras, targets (default 1234)")
    recorder.add_argument("--converter-python", help="Python that can run upstream's converter (shapely 1)")
    checker = commands.add_parser("check", help="compare with recordings")
    checker.add_argument("folder", type=Path, metavar="DIR", help="folder of recordings")
    for command in (recorder, checker):
        command.add_argument("--parts", nargs="+", default=(), help="only these, such as loss or forward/effb0")
    args = parser.parse_args()
    if args.command == "record":
        suite.record(args.upstream, args.out, args.seed, args.parts, args.converter_python)
        return 0
    comparisons = suite.check(args.folder, args.parts)
    known_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    print_table(comparisons, Console(width=None if known_width else 160))
    return int(any(one.fault for one in comparisons))


if __name__ == "__main__":
    sys.exit(main())
