"""Measure one task, or several that do the same, each in a process of its own. The sides take turns (ours, other, ours,
other, ...) and never run at once, so that the machine's other load slows both equally; a ratio is of turns that
follow each other. A turn of a short task is the median of a second of runs. Separate processes make peak memory
comparable, and keep one side's stand-ins for modules away from the other."""

from __future__ import annotations

import contextlib
import multiprocessing
import re
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from pivotnet import device as devices
from pivotnet.errors import PivotNetError
from pivotnet.pool import end_with_parent

CPU = torch.device("cpu")
TOTAL = "total"

Seconds = dict[str, np.ndarray]  # by phase: wall and CPU [2]
Gradients = tuple[float, dict[str, np.ndarray]]  # a loss, and its gradient by upstream's names of the parameters
# What kernels do, by their names; the first that fits.
GROUPS = {
    "copies to the card": "Memcpy HtoD",
    "copies back": "Memcpy DtoH",
    "copies within": "Memcpy DtoD",
    "memory sets": "Memset",
    "deformable attention": "deform|grid_sampl|^_(for|back)ward_kernel",
    "attention, softmax": "fmha|flash|attention|softmax",
    "matrix products, convolutions": "gemm|gemv|cutlass|xmma|nvjet|conv|wgrad|dgrad|implicit",
    "norms": "layer_?norm|batch_?norm|GammaBeta|bn_",
    "optimiser": "multi_tensor|adam",
    "strided copies, joins": "direct_copy|CatArray|copy_kernel",
    "sums": "reduce",
    "rows and indices": "index|gather|scatter",
    "elementwise": "elementwise|unrolled|vectorized|dropout",
    "others": "",
}
WAITS = "waits of the host"
GROUPS[WAITS] = r"cuda(Device|Stream|Event)Synchronize"


def group_of(name: str, on_card: bool) -> str | None:
    """The group of a kernel, copy or memory set, or of a call of the host that waits; None for its other calls."""
    if not on_card:
        return WAITS if re.match(GROUPS[WAITS], name) else None
    return next(group for group, words in GROUPS.items() if re.search(words, name, re.IGNORECASE))


class Clock:
    """Wall and CPU seconds of each phase of a run. CPU seconds are those of all threads of the process. On a shared
    machine they are more reliable: waiting for a core is not in them."""

    def __init__(self, device: torch.device = CPU) -> None:
        self.device = device
        self.begin("")

    def begin(self, phase: str) -> None:
        """A run starts with this phase."""
        self.seconds: Seconds = {}
        self._phase = ""
        self.enter(phase)

    def enter(self, phase: str) -> None:
        """End the running phase and begin another; "" ends the run."""
        devices.synchronize(self.device)
        now = np.array([time.perf_counter(), time.process_time()])
        if self._phase:
            self.seconds[self._phase] = self.seconds.get(self._phase, 0) + now - self._since
        self._phase, self._since = phase, now


@dataclass
class Task:
    """Something that can be run again and again, made in the measuring process."""

    clock: Clock
    run: Callable[[], None]  # calls clock.enter where a phase begins
    first_phase: str = "input"
    gradients: Callable[[], Gradients] | None = None

    def timed_run(self) -> Seconds:
        """Wall and CPU seconds by phase of one run."""
        self.clock.begin(self.first_phase)
        self.run()
        self.clock.enter("")
        return self.clock.seconds

    def take_turn(self, least_seconds: float) -> Seconds:
        """Run until ``least_seconds`` have passed, at least once; medians of each phase's seconds, and their sum. A
        short task would otherwise be measured with the caches and sleeping threads that the other's turn leaves."""
        runs: list[Seconds] = []
        start = time.perf_counter()
        while not runs or time.perf_counter() - start < least_seconds:
            runs.append(self.timed_run())
        medians = {phase: np.median([run[phase] for run in runs], axis=0) for phase in runs[0]}
        return {**medians, TOTAL: np.sum(list(medians.values()), axis=0)}

    def peak_memory(self) -> int:
        """Largest number of bytes in use since the task was made."""
        return devices.peak_memory(self.clock.device)

    def flops(self) -> int:
        """Floating point operations of matrix products, convolutions and attention (a multiply-add is two)."""
        with FlopCounterMode(display=False) as arithmetic:
            self.timed_run()
        return int(arithmetic.get_total_flops())

    def profile(self) -> dict[str, np.ndarray]:
        """What a GPU does in one run: number and milliseconds [2] by group, and the waits of the host."""
        self.timed_run()
        device, self.clock.device = self.clock.device, CPU  # whose clock waits for nothing
        with torch.profiler.profile() as profiler:
            self.timed_run()
            devices.synchronize(device)
        self.clock.device = device
        found = {group: np.zeros(2) for group in GROUPS}
        for event in profiler.events():
            on_card = event.device_type != torch.autograd.DeviceType.CPU
            group = group_of(event.name, on_card)
            if group and not event.is_user_annotation:  # spans of the program's own, beside their kernels
                found[group] += 1, event.time_range.elapsed_us() / 1e3
        found[WAITS][0] -= 2  # the profile's own, above and at its end
        return found


@dataclass
class Measurement:
    """What one side measured."""

    name: str
    rounds: dict[str, list[np.ndarray]] = field(default_factory=dict)  # by phase and in total: wall and CPU seconds [2]
    peak_bytes: int = 0  # largest number during the runs, resident (CPU) or allocated (card)
    flops: int = 0
    extras: dict[str, Any] = field(default_factory=dict)  # what Task's methods of these names gave

    def median(self, phase: str = TOTAL) -> np.ndarray:
        """Wall and CPU seconds of a phase [2]."""
        return np.median(self.rounds[phase], axis=0)


def take_turns(
    sides: Mapping[str, Callable[[], Task]],
    threads: int,
    rounds: int,
    warmup: int = 1,
    turn_seconds: float = 1.0,
    extras: Mapping[str, Collection[str]] | None = None,
) -> list[Measurement]:
    """Measure the sides (functions that make each task, by name; picklable) with ``threads`` of torch: ``rounds`` turns
    of each, after ``warmup`` turns, of ``turn_seconds`` at least; then the ``extras`` of each, by name ("profile",
    "gradients"). The tasks are made at the same time, since each takes long. Raises PivotNetError: a side cannot be
    made or run, or was killed."""
    results = [Measurement(name) for name in sides]
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        pools = {name: stack.enter_context(ProcessPoolExecutor(1, mp_context=context)) for name in sides}

        def ask(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
            return answer(name, pools[name].submit(function, *arguments))

        def answer(name: str, future: Future[Any]) -> Any:
            try:
                return future.result()
            except BrokenProcessPool as error:
                raise PivotNetError(
                    f"the process that measures {name} was killed (too little memory? choose a smaller size)"
                ) from error
            except PivotNetError as error:
                raise PivotNetError(f"{name} failed: {error}") from error

        made = {name: pools[name].submit(_make, make, threads) for name, make in sides.items()}
        for name, future in made.items():
            answer(name, future)
        for number in range(warmup + rounds):
            for result in results:
                seconds = ask(result.name, _call, "take_turn", turn_seconds)
                for phase in seconds if number >= warmup else ():
                    result.rounds.setdefault(phase, []).append(seconds[phase])
        for result in results:
            result.peak_bytes = ask(result.name, _call, "peak_memory")
            result.flops = ask(result.name, _call, "flops")
            result.extras = {method: ask(result.name, _call, method) for method in (extras or {}).get(result.name, ())}
    return results


# In the measuring process.
_task: Task


def _make(make: Callable[[], Task], threads: int) -> None:
    global _task
    end_with_parent()
    torch.set_num_threads(threads)
    _task = make()
    devices.reset_peak_memory(_task.clock.device)


def _call(method: str, *arguments: Any) -> Any:
    return getattr(_task, method)(*arguments)
