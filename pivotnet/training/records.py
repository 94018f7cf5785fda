"""Step times: measured inside the loop, written step by step, and what rank 0 shows of them; other ranks show nothing.
Every rank appends one JSON object a step to OUTPUT/steps.rank<R>.jsonl. A step ends when its optimiser update has been
handed to the device. As every step waits for the device once, in the middle, times between ends are times of whole
steps, and the measurement itself adds no wait."""

import contextlib
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pivotnet.distributed import CollectiveError
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike, atomic_write, read_or_fail
from pivotnet.schema import check, fields, file_token, flag, mapping, nullable, number

LOG_NAME = "train.log"
SMOOTHING = 0.9  # of the step time and the share of waiting on the progress line
GIB = 1 << 30
WARMUP_STEPS = 20  # at most; a quarter of a short run
_LARGEST = 2**30  # bytes of a file; a step takes 500
_SECONDS, _FINITE = number(0, 1e9), number(-1e300, 1e300)
_RECORD = fields(
    {
        "step": number(0, whole=True),  # counted from 0
        "seconds": nullable(_SECONDS),  # between the ends of the previous step and this one; null for a process's first
        "data_wait": _SECONDS,  # of these, in which the loop waited for the loader
        "counted": flag,  # used by the summary: not in the warm-up, no checkpoint or evaluation in between
        "lr": number(0, 1e300),  # of the first parameter group
        "loss": _FINITE,  # mean over the ranks
        "terms": mapping(_FINITE, file_token),  # weighted, means over the ranks
    }
)


def warmup_steps(steps: int) -> int:
    return min(WARMUP_STEPS, steps // 4)


def records_path(folder: PathLike, rank: int) -> Path:
    return Path(folder) / f"steps.rank{rank}.jsonl"


def read_records(path: PathLike) -> Iterator[dict[str, Any]]:
    """Records of a file, but a last line cut off by a kill; PivotNetError where another line is no record."""
    remedy = "it holds no records of pivotnet train: move it away"
    lines = read_or_fail(path, remedy, _LARGEST).split(b"\n")
    for index, line in enumerate(lines[:-1], 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PivotNetError(f"line {index} of {path} is no JSON ({error}); {remedy}") from error
        check(_RECORD, record, f"line {index} of {path}", remedy)
        if record["counted"] and not record["seconds"]:
            raise PivotNetError(f"line {index} of {path} counts a step that has no time; {remedy}")
        yield record


def check_loss(step: int, loss: float, terms: dict[str, float], remedy: str) -> None:
    """CollectiveError, in every rank at the same step, where the loss or a term, their means, is not finite."""
    if not all(map(math.isfinite, (loss, *terms.values()))):
        bad = ", ".join(name for name, value in terms.items() if not math.isfinite(value)) or "total"
        raise CollectiveError(f"the loss of step {step} is {loss} (terms: {bad}): {remedy}")


def counted_times(records: Iterable[dict[str, Any]]) -> list[tuple[float, float]]:
    """Seconds, and seconds of waiting for data, of each counted step."""
    return [(record["seconds"], record["data_wait"]) for record in records if record["counted"]]


class StepRecords:
    """The clock of a loop of ``steps``, of which the first are warm-up, and the file of one rank's records. For each
    step ``request``, ``loaded``, ``end``, and ``add`` when its losses are known; ``disturb`` after anything else. On
    resume, records from ``start_step`` on are dropped: they are made anew."""

    def __init__(self, folder: PathLike, rank: int, start_step: int, steps: int) -> None:
        self.path = records_path(folder, rank)
        kept = []
        if start_step and self.path.exists():
            kept = [record for record in read_records(self.path) if record["step"] < start_step]
        with atomic_write(self.path, "w") as stream:
            stream.writelines(json.dumps(record) + "\n" for record in kept)
        self.stream: IO[str] = open(self.path, "a", buffering=1)
        self.start_step = start_step
        self.warmup = warmup_steps(steps)
        self.done, self.disturbed = 0, False
        self.previous: float | None = None
        self.requested = self.data_wait = 0.0

    def request(self) -> None:
        """The loop asks the loader for a batch."""
        self.requested = time.perf_counter()

    def loaded(self) -> None:
        self.data_wait = time.perf_counter() - self.requested

    def disturb(self) -> None:
        """Something that is no step has happened (checkpoint, evaluation): do not count the step under way."""
        self.disturbed = True

    def end(self, lr: float) -> dict[str, Any]:
        """The step is over; returns its record but for the losses."""
        now = time.perf_counter()
        seconds = None if self.previous is None else now - self.previous
        counted = seconds is not None and self.done >= self.warmup and not self.disturbed
        step = self.start_step + self.done
        self.previous, self.disturbed, self.done = now, False, self.done + 1
        return {"step": step, "seconds": seconds, "data_wait": self.data_wait, "counted": counted, "lr": lr}

    def add(self, record: dict[str, Any], loss: float, terms: dict[str, float]) -> None:
        """Complete and append a record; it is in the file when this returns."""
        record.update(loss=loss, terms=terms)
        self.stream.write(json.dumps(record) + "\n")

    def close(self) -> None:
        with contextlib.suppress(OSError):  # every record was written when it was added
            self.stream.close()


class Monitor:
    """Console, train.log and TensorBoard of one run, until ``close``; ``enabled`` is False on all ranks but 0. The
    progress bar begins at ``start_step``; TensorBoard's points after it are replaced. ``log_every``: steps
    between lines of the log and points of the curves."""

    def __init__(self, folder: Path, *, total_steps: int, start_step: int, log_every: int, enabled: bool) -> None:
        self.total_steps, self.log_every, self.enabled = total_steps, log_every, enabled
        self.seconds: float | None = None
        self.wait = 0.0  # share of a step spent waiting for data
        if not enabled:
            return
        from torch.utils.tensorboard import SummaryWriter

        self.console = Console(highlight=False, soft_wrap=True)
        self.log = open(folder / LOG_NAME, "a", buffering=1)
        self.curves = SummaryWriter(str(folder / "tensorboard"), purge_step=start_step + 1)
        columns = (BarColumn(bar_width=10), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
        self.progress = Progress(*columns, TextColumn("{task.fields[note]}"), console=self.console)
        self.task = self.progress.add_task("training", total=total_steps, completed=start_step, note="")
        if self.console.is_terminal:  # elsewhere it would leave an empty line
            self.progress.start()

    def close(self) -> None:
        if self.enabled:
            if self.console.is_terminal:
                self.progress.stop()
            for stream in (self.curves, self.log):
                with contextlib.suppress(OSError):  # a full disk has been reported already
                    stream.close()

    def say(self, text: str, console: bool = True) -> None:
        """A line on the console and, with the time, in the log file."""
        if self.enabled:
            self.log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
            if console:
                self.console.print(text, markup=False)

    def step(self, record: Mapping[str, Any], memory: int) -> None:
        """Take note of a finished step, given as its record (see records.py) and the peak memory in bytes."""
        if not self.enabled:
            return
        done = record["step"] + 1
        note = self._describe(record, memory)
        self.progress.update(self.task, completed=done, note=note)
        if done % self.log_every and done != self.total_steps:
            return
        self.say(f"step {done}/{self.total_steps}  {note}", console=not self.console.is_terminal)
        values = {"train/loss": record["loss"], "meta/learning_rate": record["lr"]}
        values.update({f"train/{name}": value for name, value in record["terms"].items()})
        if record["seconds"] is not None:
            values.update({"meta/step_seconds": record["seconds"], "meta/data_wait_seconds": record["data_wait"]})
        for name, value in values.items():
            self.curves.add_scalar(name, value, done)

    def end_epoch(self, instances: int) -> None:
        """Warn of an epoch in which this rank has seen no instance: the network learns to draw nothing."""
        if not instances:
            remedy = "look at the annotations (pivotnet render draws them)"
            self.say(f"warning: no sample of this epoch has a line: {remedy}")

    def _describe(self, record: Mapping[str, Any], memory: int) -> str:
        seconds = record["seconds"]
        if seconds is not None:
            keep = 0.0 if self.seconds is None else SMOOTHING
            self.seconds = keep * (self.seconds or 0.0) + (1 - keep) * seconds
            self.wait = keep * self.wait + (1 - keep) * record["data_wait"] / seconds
        pace = "" if self.seconds is None else f"  {self.seconds:.3f} s/step  wait {100 * self.wait:.0f}%"
        return f"loss {record['loss']:.4f}  lr {record['lr']:.3g}{pace}  {memory / GIB:.2f} GiB"
