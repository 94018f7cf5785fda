#!/usr/bin/env python3
"""How fast, and against what: measure this project, alone or side by side with another checkout.

    python tools/bench.py step       a training step: seconds by phase, memory, operators, arithmetic
    python tools/bench.py criterion  matching and losses alone
    python tools/bench.py annotate   nuScenes tables and maps -> annotated samples
    python tools/bench.py evaluate   result files -> average precision
    python tools/bench.py load       annotated samples and JPEGs -> batches
    python tools/bench.py draw       a picture of what one of them wrote by --json

With --against CHECKOUT (upstream, or a published port of it to NPUs, unmodified) both sides run in turns, each in a
process of its own, on this CPU; without it ours alone is measured. --json FILE keeps everything that was measured.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

from benchmarks import commands_data, commands_step, picture  # noqa: E402
from benchmarks.options import natural, positive  # noqa: E402

from pivotnet.errors import PivotNetError  # noqa: E402

BENCHMARKS = {
    "step": (commands_step.run_step, commands_step.configure_step),
    "criterion": (commands_step.run_criterion, commands_step.configure_criterion),
    "annotate": (commands_data.run_annotate, commands_data.configure_annotate),
    "evaluate": (commands_data.run_evaluate, commands_data.configure_evaluate),
    "load": (commands_data.run_load, commands_data.configure_load),
}


def build_parser() -> argparse.ArgumentParser:
    """All benchmarks' options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    benchmarks = parser.add_subparsers(dest="benchmark", required=True)
    for name, (run, configure) in BENCHMARKS.items():
        sub = benchmarks.add_parser(name, help=(run.__doc__ or "").splitlines()[0])
        sub.add_argument("--against", type=Path, metavar="CHECKOUT", help="the other side (default: ours alone)")
        sub.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
        sub.add_argument("--rounds", type=positive, default=3, help="measured turns of each side (default 3)")
        sub.add_argument("--warmup", type=natural, default=1, help="turns before them (default 1)")
        sub.add_argument("--threads", type=positive, default=2, help="torch's threads (default 2)")
        sub.add_argument("--seed", type=int, default=1234, help="seed of the inputs (default 1234)")
        configure(sub)
        sub.set_defaults(run=run)
    drawing = benchmarks.add_parser("draw", help=(picture.run_draw.__doc__ or "").splitlines()[0])
    picture.configure_draw(drawing)
    drawing.set_defaults(run=picture.run_draw)
    return parser


def main() -> int:
    """Parse the command line and run a benchmark; returns the exit status."""
    args = build_parser().parse_args()
    try:
        args.run(args)
    except PivotNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
