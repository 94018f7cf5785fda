"""Runs cases of hostile input in a process of their own, and tells the outcome of each."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import mutations
import torch
from readers import KINDS, choose

from pivotnet.errors import PivotNetError

OUTCOMES = ("clean", "same", "other", "traceback", "hang", "memory", "crash", "outside")
BAD = OUTCOMES[3:]
SECONDS = 10.0  # that a case may take
BYTES = 2**30  # that a case may take
WATCHED_EVERY = 0.05  # seconds
LONGEST_LINE = 1000  # characters


class Case(NamedTuple):
    """A case and what came of it."""

    index: int
    kind: str
    how: str
    outcome: str
    message: str


class Driver:
    """A process that runs cases, and is replaced when one has ended it.

    A case is defined by the seed and its index alone. It runs in a folder deep below ``base``, so that a file that it
    writes a few folders higher is found.
    """

    def __init__(self, seed: int, base: Path) -> None:
        self.seed, self.base = seed, base
        os.environ["FUZZ_BASE"] = str(base)
        self.place = base / "w" / "x" / "y" / "z"
        self.good: dict[str, str] = {}
        for name, kind in KINDS.items():
            folder = base / "good" / name
            folder.mkdir(parents=True)
            kind.make(folder)
        for name, kind in KINDS.items():
            self.good[name] = kind.read(self._fresh(name))
        self.worker: multiprocessing.process.BaseProcess | None = None

    def _fresh(self, name: str) -> Path:
        """A folder with the good files of a kind."""
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.base / "good" / name, self.place)
        return self.place

    def close(self) -> None:
        if self.worker is not None:
            self.worker.kill()
            self.worker.join()
            self.worker = None

    def run(self, index: int) -> Case:
        """One case."""
        if self.worker is None:
            context = multiprocessing.get_context("fork")
            self.pipe, theirs = context.Pipe()
            self.worker = context.Process(target=self._serve, args=(theirs,), daemon=True)
            self.worker.start()
            theirs.close()
        before = self._outside()
        self.pipe.send(index)
        kind, how = self.pipe.recv()  # the file has been changed
        started, floor, outcome = time.monotonic(), self._resident(), ""
        while not outcome and not self.pipe.poll(WATCHED_EVERY):
            if time.monotonic() - started > SECONDS:
                outcome = "hang"
            elif self._resident() - floor > BYTES:
                outcome = "memory"
        message = ""
        if not outcome:
            try:
                outcome, message = self.pipe.recv()
            except EOFError:
                outcome = "crash"
        if outcome in ("hang", "memory", "crash"):
            if outcome == "crash":
                self.worker.join()
                message = f"exit code {self.worker.exitcode}"
            self.close()
        left = self._outside() - before
        if left:
            outcome, message = "outside", f"{sorted(left)}"
        return Case(index, kind, how, outcome, message)

    def _outside(self) -> set[str]:
        """What lies in the folders above the case's."""
        return {
            str(path) for folder in self.place.parents if folder.is_relative_to(self.base) for path in folder.iterdir()
        }

    def _resident(self) -> int:
        assert self.worker is not None
        try:
            with open(f"/proc/{self.worker.pid}/statm") as stream:
                return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):  # it has ended
            return 0

    def _serve(self, pipe: Connection) -> None:
        torch.set_num_threads(1)
        while True:
            index = pipe.recv()
            rng = random.Random(f"{self.seed}/{index}")
            name = list(KINDS)[index % len(KINDS)]
            folder = self._fresh(name)
            try:
                how = mutations.mutate(choose(rng, folder, KINDS[name]), rng)
            except Exception:  # two changes may exclude each other
                folder = self._fresh(name)
                how = mutations.change_bytes(choose(rng, folder, KINDS[name]), rng)
            pipe.send((name, how))
            try:
                with warnings.catch_warnings():  # they would be lines beside the one
                    warnings.simplefilter("error", RuntimeWarning)
                    warnings.simplefilter("error", UserWarning)
                    outcome, message = ("same" if KINDS[name].read(folder) == self.good[name] else "other"), ""
            except PivotNetError as error:
                message = str(error)
                outcome = "clean" if "\n" not in message and len(message) <= LONGEST_LINE else "traceback"
            except BaseException:
                outcome, message = "traceback", traceback.format_exc()
            pipe.send((outcome, message))


def run_cases(seed: int, cases: range) -> Iterator[Case]:
    """The cases of a seed, one after the other."""
    with (
        tempfile.TemporaryDirectory(prefix="pivotnet-fuzz-") as base,
        contextlib.closing(Driver(seed, Path(base))) as own,
    ):
        for index in cases:
            yield own.run(index)


def table(found: Counter[tuple[str, str]]) -> str:
    """Cases by kind and outcome, as Markdown."""
    names = [*KINDS, "all"]
    for (_, outcome), count in list(found.items()):
        found["all", outcome] += count
    head = f"| kind | cases | {' | '.join(OUTCOMES)} |"
    rows = [
        f"| {name} | {sum(found[name, outcome] for outcome in OUTCOMES)} | "
        + " | ".join(str(found[name, outcome]) for outcome in OUTCOMES)
        + " |"
        for name in names
    ]
    return "\n".join([head, "| :-- |" + " --: |" * (len(OUTCOMES) + 1), *rows])
