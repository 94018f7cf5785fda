"""Changes files of every kind that the package reads, by seed, and reports the outcome of each case.

    python tools/fuzz.py --cases 20000 --seed 1        # a table, and every case that does harm
    python tools/fuzz.py --seed 1 --only 1234          # one case again

clean: refused in one line; same: read as if nothing were changed; other: read with other values, within their range.
All others are faults of the package: a traceback, more than 10 s, more than 1 GiB, the process's end, a file outside
of the case's folder. SECURITY.md shows a run."""

import argparse
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test"), str(ROOT / "test" / "fuzz")]

import mutations  # noqa: E402
import torch  # noqa: E402
from readers import KINDS, choose  # noqa: E402

from pivotnet.console import interrupted_by_sigterm, progress  # noqa: E402
from pivotnet.errors import PivotNetError  # noqa: E402

OUTCOMES = ("clean", "same", "other", "traceback", "hang", "memory", "crash", "outside")
BAD = OUTCOMES[3:]
SECONDS = 10.0  # that a case may take
BYTES = 2**30  # that a case may take
WATCHED_EVERY = 0.05  # seconds
LONGEST_LINE = 1000  # characters


class Case(NamedTuple):
    index: int
    kind: str
    how: str
    outcome: str
    message: str


def run_cases(seed: int, cases: range) -> Iterator[Case]:
    """The cases of a seed, one after the other; a case is defined by the seed and its index alone. A process runs them,
    and is replaced when a case has ended it. It reads files in a folder deep below a base, so that a file that it
    writes a few folders higher is found."""
    context = multiprocessing.get_context("fork")
    worker = None
    with tempfile.TemporaryDirectory(prefix="pivotnet-fuzz-") as name:
        base, place = Path(name), Path(name, "w", "x", "y", "z")
        os.environ["FUZZ_BASE"] = name
        good: dict[str, str] = {}
        for kind, own in KINDS.items():
            (base / "good" / kind).mkdir(parents=True)
            own.make(base / "good" / kind)
            good[kind] = own.read(fresh(base, kind, place))
        try:
            for index in cases:
                if worker is None:
                    pipe, theirs = context.Pipe()
                    worker = context.Process(target=serve, args=(theirs, seed, base, place, good), daemon=True)
                    worker.start()
                    theirs.close()
                before = outside(base, place)
                pipe.send(index)
                kind, how = pipe.recv()  # the file has been changed
                outcome, message = watch(pipe, worker)
                if outcome in ("hang", "memory", "crash"):
                    worker.kill()
                    worker.join()
                    worker = None
                if left := outside(base, place) - before:
                    outcome, message = "outside", f"{sorted(left)}"
                yield Case(index, kind, how, outcome, message)
        finally:
            if worker is not None:
                worker.kill()
                worker.join()


def fresh(base: Path, kind: str, place: Path) -> Path:
    """``place`` with the good files of a kind."""
    shutil.rmtree(place, ignore_errors=True)
    return shutil.copytree(base / "good" / kind, place)


def outside(base: Path, place: Path) -> set[str]:
    """What lies in the folders above the case's."""
    return {str(path) for folder in place.parents if folder.is_relative_to(base) for path in folder.iterdir()}


def watch(pipe: Connection, worker: BaseProcess) -> tuple[str, str]:
    """Outcome and message of a case that runs, within its limits."""
    started, floor = time.monotonic(), resident(worker)
    while not pipe.poll(WATCHED_EVERY):
        if time.monotonic() - started > SECONDS:
            return "hang", ""
        if resident(worker) - floor > BYTES:
            return "memory", ""
    try:
        return pipe.recv()
    except EOFError:
        worker.join()
        return "crash", f"exit code {worker.exitcode}"


def resident(worker: BaseProcess) -> int:
    """Bytes of memory that a process takes, 0 when it has ended."""
    try:
        return int(Path(f"/proc/{worker.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def serve(pipe: Connection, seed: int, base: Path, place: Path, good: dict[str, str]) -> None:
    """The process: for each index that it is sent, reports kind and change of the case, and then its outcome."""
    torch.set_num_threads(1)
    while True:
        index = pipe.recv()
        rng = random.Random(f"{seed}/{index}")
        kind = list(KINDS)[index % len(KINDS)]
        try:
            how = mutations.mutate(choose(rng, fresh(base, kind, place), KINDS[kind]), rng)
        except Exception:  # two changes may exclude each other
            how = mutations.change_bytes(choose(rng, fresh(base, kind, place), KINDS[kind]), rng)
        pipe.send((kind, how))
        try:
            with warnings.catch_warnings():  # they would be lines beside the one
                warnings.simplefilter("error", RuntimeWarning)
                warnings.simplefilter("error", UserWarning)
                outcome, message = ("same" if KINDS[kind].read(place) == good[kind] else "other"), ""
        except PivotNetError as error:
            message = str(error)
            outcome = "clean" if "\n" not in message and len(message) <= LONGEST_LINE else "traceback"
        except BaseException:
            outcome, message = "traceback", traceback.format_exc()
        pipe.send((outcome, message))


def table(found: Counter[tuple[str, str]]) -> str:
    """Cases by kind and outcome, as Markdown."""
    rows = [[name, *(found[name, outcome] for outcome in OUTCOMES)] for name in KINDS]
    rows.append(["all", *(sum(counts) for counts in list(zip(*rows))[1:])])
    lines = [("kind", "cases", *OUTCOMES), (":--", *["--:"] * (1 + len(OUTCOMES)))]
    lines += [(name, sum(counts), *counts) for name, *counts in rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


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
    with interrupted_by_sigterm():
        for case in progress(run_cases(args.seed, cases), "fuzz", len(cases)):
            found[case.kind, case.outcome] += 1
            if case.outcome in BAD or args.only is not None:
                harmful += case.outcome in BAD
                print(f"case {case.index}, {case.kind}, {case.how}: {case.outcome}\n{case.message}", flush=True)
    if args.only is None:
        print(f"seed {args.seed}, {len(cases)} cases\n\n{table(found)}")
    return 1 if harmful else 0


if __name__ == "__main__":
    sys.exit(main())
