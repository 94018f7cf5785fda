"""``pivotnet report``: what training runs have measured."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from pivotnet.comparison import comparison_table, draw_curves, published_table, read_run
from pivotnet.errors import PivotNetError
from pivotnet.files import atomic_write, make_folder
from pivotnet.training.summary import KINDS, TITLE, case_name, earlier_seconds, final_lines, read_summary

FILE_WIDTH = 160  # characters a line, where the output is no terminal


def configure(parser: argparse.ArgumentParser) -> None:
    text = "output folders of training runs, side by side"
    parser.add_argument("runs", type=Path, nargs="+", metavar="OUTPUT", help=text)
    text = "print this kind of Final result of one finished run instead, and write it to OUTPUT/<CaseName>.log"
    parser.add_argument("--final", choices=sorted(KINDS), help=text)
    parser.add_argument("--log-folder", type=Path, metavar="DIR", help="with --final: write DIR/<CaseName>.log as well")
    parser.add_argument("--curves", type=Path, metavar="PNG", help="where curves go (curves.png in the first OUTPUT)")


def run(args: argparse.Namespace) -> int:
    """Print the Final result of a run, or compare runs; returns the exit status."""
    if args.final:
        _print_final(args)
        return 0
    runs = [read_run(folder) for folder in args.runs]
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH, markup=False)
    console.print(comparison_table(runs))
    console.print(published_table())
    path = args.curves or args.runs[0] / "curves.png"
    draw_curves(runs, path)
    print(f"curves: {path}")
    return 0


def _print_final(args: argparse.Namespace) -> None:
    if len(args.runs) != 1:
        raise PivotNetError(f"--final takes one OUTPUT, not {len(args.runs)}; without it runs are compared")
    folder = args.runs[0]
    summary = read_summary(folder)
    lines = final_lines(summary, args.final, earlier_seconds(summary, folder))
    folders = [folder] if args.log_folder is None else [folder, make_folder(args.log_folder, "--log-folder")]
    for target in folders:
        with atomic_write(target / f"{case_name(summary, args.final)}.log", "w") as stream:
            stream.write("\n".join(lines) + "\n")
    print("\n".join([TITLE, *lines]))
