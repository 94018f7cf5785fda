"""Changes files of every kind that the package reads, by seed, and tells what becomes of each case.

    python tools/fuzz.py --cases 20000 --seed 1        # a table, and every case that does harm
    python tools/fuzz.py --seed 1 --only 1234          # one case again

clean: refused in one line; same: read as if nothing were changed; other: read with other values, within their range.
All others are faults of the package: a traceback, more than 10 s, more than 1 GiB, the process's end, a file outside
of the case's folder. SECURITY.md shows a run.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test"), str(ROOT / "test" / "fuzz")]

from driver import BAD, run_cases, table  # noqa: E402

from pivotnet.console import long_run  # noqa: E402


def main() -> int:
    """Run the cases; returns 1 if one did harm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000, metavar="N", help="cases (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the cases (%(default)s)")
    parser.add_argument("--only", type=int, metavar="INDEX", help="run this case alone, and print its message")
    args = parser.parse_args()
    cases = range(args.cases) if args.only is None else range(args.only, args.only + 1)
    found: Counter[tuple[str, str]] = Counter()
    harmful = 0
    with long_run("fuzz") as show:
        for number, case in enumerate(run_cases(args.seed, cases), 1):
            show(number, len(cases))
            found[case.kind, case.outcome] += 1
            if case.outcome in BAD or args.only is not None:
                harmful += case.outcome in BAD
                print(f"case {case.index}, {case.kind}, {case.how}: {case.outcome}\n{case.message}", flush=True)
    if args.only is None:
        print(f"seed {args.seed}, {len(cases)} cases\n\n{table(found)}")
    return 1 if harmful else 0


if __name__ == "__main__":
    sys.exit(main())
