"""Measure one task, or two that do the same, each in a process of its own.

The sides run in turns (ours, other, ours, other, ...), never at once, so that what else the machine does meets both
alike, and a ratio is taken of neighbours in time. A turn of a short task is the median of a second of runs. Processes
of their own make peak memory comparable, and keep what has to be replaced for one side away from the other.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Optional

import torch

from benchmarks.operators import OperatorCounter
from pivotnet import device as devices
from pivotnet.errors import PivotNetError

TOTAL = "total"
TURN_SECONDS = 1.0


class Phases:
    """A clock that a task tells when a phase of its run is over; wall and CPU seconds of each.

    CPU seconds are those of all threads of the process and of its finished children. Where the machine is shared they
    are the ones to trust: waiting for a core is not in them.
    """

    def __init__(self, device: Optional[torch.device] = None) -> None:
        self.device = device or torch.device("cpu")
        self.counter: Optional[OperatorCounter] = None
        self.begin()

    def begin(self) -> None:
        """A run starts."""
        self.seconds: dict[str, tuple[float, float]] = {}
        self._last = self._now()

    def end(self, name: str) -> None:
        """What ran since the last call was the phase ``name``."""
        devices.synchronize(self.device)
        now = self._now()
        before = self.seconds.get(name, (0.0, 0.0))
        self.seconds[name] = (before[0] + now[0] - self._last[0], before[1] + now[1] - self._last[1])
        self._last = now
        if self.counter is not None:
            self.counter.close(name)

    @staticmethod
    def _now() -> tuple[float, float]:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime


class Task:
    """Something that can be run again and again. Sub-classes are built in the measuring process.

    ``run`` calls ``phases.end`` after each of its parts; ``count`` runs once under an OperatorCounter.
    """

    def __init__(self) -> None:
        self.phases = Phases()

    def prepare(self) -> None:
        """What a run needs and nobody wants to measure."""

    def run(self) -> None:
        """One run."""
        raise NotImplementedError

    def count(self) -> dict[str, Any]:
        """Operators of one run by phase."""
        self.prepare()
        with OperatorCounter() as counter:
            self.phases.counter = counter
            self.phases.begin()
            self.run()
        self.phases.counter = None
        return counter.result()

    def facts(self) -> dict[str, Any]:
        """What a reader of the result should know, such as the number of samples of a run."""
        return {}


@dataclass(frozen=True)
class Side:
    """How to build a task: a picklable callable and its options."""

    name: str
    build: Callable[..., Task]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Measurement:
    """What one side measured. Seconds of each phase and of the total, a value a round."""

    name: str
    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    peak_bytes: int = 0  # resident (CPU) or allocated (card) at the most during the runs
    idle_bytes: int = 0  # the same before the first run, when the task was built
    operators: Optional[dict[str, Any]] = None
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, seconds: dict[str, tuple[float, float]]) -> None:
        """One more round."""
        total = (sum(wall for wall, _ in seconds.values()), sum(cpu for _, cpu in seconds.values()))
        for phase, (wall, cpu) in [*seconds.items(), (TOTAL, total)]:
            self.wall.setdefault(phase, []).append(wall)
            self.cpu.setdefault(phase, []).append(cpu)


@dataclass(frozen=True)
class Ratio:
    """Ours by other, of each round."""

    median: float
    least: float
    most: float

    @staticmethod
    def of(ours: Sequence[float], other: Sequence[float]) -> Optional[Ratio]:
        """None where the other took no time."""
        values = [mine / theirs for mine, theirs in zip(ours, other) if theirs > 0]
        return Ratio(statistics.median(values), min(values), max(values)) if values else None


def _serve(connection: Any, side: Side, threads: int, turn_seconds: float) -> None:
    """The measuring process: answers run, count and finish until it is told to quit."""
    try:
        torch.set_num_threads(threads)
        multiprocessing.set_start_method(None, force=True)  # its children start as elsewhere, not as this process did
        task = side.build(**side.options)
        device = task.phases.device
        idle = devices.peak_memory(device) if device.type != "cpu" else _resident()
        devices.reset_peak_memory(device)
        connection.send(("built", None))
        while True:
            command = connection.recv()
            if command == "quit":
                return
            if command == "run":
                connection.send(("ran", take_turn(task, turn_seconds)))
            elif command == "count":
                connection.send(("counted", task.count()))
            else:
                connection.send(("measured", (devices.peak_memory(device), idle, task.facts())))
    except Exception as error:
        told = str(error) if isinstance(error, PivotNetError) else traceback.format_exc()
        connection.send(("failed", told))


def take_turn(task: Task, least_seconds: float) -> dict[str, tuple[float, float]]:
    """Run the task until ``least_seconds`` have passed, at least once; medians of each phase's wall and CPU seconds.

    A short task would otherwise be measured with the caches and sleeping threads that the other side's turn leaves.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    start = time.perf_counter()
    while not found or time.perf_counter() - start < least_seconds:
        task.prepare()
        task.phases.begin()
        task.run()
        for phase, seconds in task.phases.seconds.items():
            found.setdefault(phase, []).append(seconds)
    return {
        phase: (statistics.median(wall for wall, _ in values), statistics.median(cpu for _, cpu in values))
        for phase, values in found.items()
    }


def _resident() -> int:
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class _Process:
    """A measuring process, from this side."""

    def __init__(self, side: Side, threads: int, turn_seconds: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.side = side
        self.connection, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, side, threads, turn_seconds))
        self.process.start()
        there.close()
        try:
            self._answer()
        except BaseException:
            self.end()
            raise

    def ask(self, command: str) -> Any:
        self.connection.send(command)
        return self._answer()

    def _answer(self) -> Any:
        try:
            kind, content = self.connection.recv()
        except EOFError as error:
            self.process.join()
            raise PivotNetError(
                f"the process that measures {self.side.name} ended with exit code {self.process.exitcode} (-9: too "
                "little memory? choose a smaller size)"
            ) from error
        if kind == "failed":
            raise PivotNetError(f"{self.side.name} failed: {content.strip()}")
        return content

    def end(self) -> None:
        if self.process.is_alive():
            try:
                self.connection.send("quit")
            except OSError:
                self.process.terminate()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


@contextmanager
def _processes(sides: Sequence[Side], *settings: Any) -> Iterator[list[_Process]]:
    with ExitStack() as stack:
        running = []
        for side in sides:
            process = _Process(side, *settings)
            stack.callback(process.end)
            running.append(process)
        yield running


def measure(
    sides: Sequence[Side],
    *,
    rounds: int,
    warmup: int = 1,
    threads: int = 2,
    turn_seconds: float = TURN_SECONDS,
    counted: Optional[Callable[[list[Measurement]], None]] = None,
    timed: Callable[[list[Measurement]], None],
) -> list[Measurement]:
    """Run the sides in turns.

    Args:
        sides: one, or ours and the other.
        rounds: measured turns of each.
        warmup: turns of each before, not measured.
        threads: torch's threads in each process.
        turn_seconds: a turn goes on until so many have passed; the median of its runs counts.
        timed: told the results as soon as the rounds are over.
        counted: told the results again after the operators of one more run of each are counted; None counts nothing.

    Raises:
        PivotNetError: a side failed; the message holds its traceback.
    """
    results = [Measurement(side.name) for side in sides]
    with _processes(sides, threads, turn_seconds) as processes:
        for number in range(warmup + rounds):
            for process, result in zip(processes, results):
                seconds = process.ask("run")
                if number >= warmup:
                    result.add(seconds)
        for process, result in zip(processes, results):
            result.peak_bytes, result.idle_bytes, result.facts = process.ask("finish")
        timed(results)
        if counted is not None:
            for process, result in zip(processes, results):
                result.operators = process.ask("count")
            counted(results)
    return results
