"""The command ``pivotnet``: one subcommand for each stage of the data.

A subcommand is the module of its name in pivotnet/commands, with ``configure(parser)`` and ``run(args) -> int``. It is
imported only when asked for, so that ``pivotnet --help`` and the stages that need no torch start at once."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from pivotnet import __version__
from pivotnet.commands import OptionParser
from pivotnet.errors import CollectiveError, LostRankError, PivotNetError, run_command
from pivotnet.launch.torchrun import ERROR_FILE, hand_over

COMMANDS = {
    "synth": "make a small synthetic data set in nuScenes' format",
    "annotate": "turn nuScenes tables and maps into annotated sample files",
    "train": "train a preset, on one device or on many through torchrun",
    "evaluate": "predict a split and print the AP table",
    "predict": "write vector maps (JSON, metres in the ego frame)",
    "render": "draw ground truth and prediction into PNGs",
    "report": "print what training runs have measured",
    "doctor": "say what this machine has and what is wrong with it",
    "run": "train on all cards and print the Final result, as the run scripts do",
    "audit": "count operators and host waits of a training step",
}


def build_parser(arguments: Sequence[str]) -> tuple[argparse.ArgumentParser, Any]:
    """The parser for a command line, with the options of its subcommand, and what runs that (None without one).
    PivotNetError where a package that the subcommand needs is not installed."""
    parser = OptionParser(prog="pivotnet", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"pivotnet {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    run = None
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        if [name] == arguments[:1]:
            try:
                module = importlib.import_module(f"pivotnet.commands.{name}")
            except ModuleNotFoundError as error:
                package = str(error.name).partition(".")[0]
                raise PivotNetError(f"{package} is not installed: pip install -r requirements.txt") from error
            module.configure(subparser)
            run = module.run
    return parser, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit status (2 for anything that the user can repair)."""
    # torch loads a device's extension as soon as it is imported, and fails if that is broken. device.py loads it,
    # when the device is wanted, and says what is wrong.
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
    return run_command(lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def _run(arguments: list[str]) -> int:
    if "\0" in "".join(arguments):
        raise PivotNetError("an option has a NUL character, which no name can have: leave it out")
    parser, run = build_parser(arguments)
    args = parser.parse_args(arguments)
    try:
        return run(args)
    except CollectiveError as error:
        if os.environ.get("RANK", "0") == "0":
            raise
        if ERROR_FILE in os.environ:  # this rank may end first, and torchrun then ends rank 0 before it prints
            hand_over(type(error), error, None)
        return 2
    except LostRankError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2)
