"""``pivotnet report``: what training runs have measured."""

from __future__ import annotations

import argparse
from pathlib import Path

from pivotnet.files import atomic_write
from pivotnet.report.final import KINDS, TITLE, case_name, final_lines
from pivotnet.report.summary import read_summary


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``pivotnet report``."""
    parser.add_argument("run", type=Path, metavar="OUTPUT", help="output folder of a finished training run")
    parser.add_argument(
        "--final",
        choices=sorted(KINDS),
        default="performance",
        help="print this kind of Final result and write it to OUTPUT/<CaseName>.log (performance)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the Final result of a run; returns the exit status."""
    summary = read_summary(args.run)
    lines = final_lines(summary, args.final)
    with atomic_write(args.run / f"{case_name(summary, args.final)}.log", "w") as stream:
        stream.write("\n".join(lines) + "\n")
    print("\n".join([TITLE, *lines]))
    return 0
