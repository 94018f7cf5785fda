"""Read what a training run has left: its summary and its step records (training/timing.py says what they hold)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from pivotnet.errors import PivotNetError
from pivotnet.training.timing import read_records, records_path

SUMMARY = "summary.json"
REQUIRED = ("preset", "ranks", "batch_size", "global_batch", "step_seconds", "wall_seconds", "finished")


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of the run in ``folder``.

    Raises:
        PivotNetError: there is none, because the run did not end, or it is damaged.
    """
    path = folder / SUMMARY
    try:
        summary = json.loads(path.read_text())
        missing = [key for key in REQUIRED if key not in summary]
    except FileNotFoundError:
        raise PivotNetError(f"{folder} has no {SUMMARY}: the run did not end; go on with --resume") from None
    except (OSError, ValueError, TypeError) as error:
        raise PivotNetError(f"{path} cannot be read ({error}); run the training again") from None
    if missing:
        raise PivotNetError(f"{path} lacks {missing[0]!r}: it was not written by pivotnet train of this version")
    return summary


@dataclass
class RunData:
    """One run as far as it has come."""

    folder: Path
    summary: Optional[dict[str, Any]]  # None while the run has not ended
    records: list[dict[str, Any]]  # of rank 0: losses and rates are the same in all ranks
    step_seconds: list[float]  # counted steps of all ranks whose records are here
    data_wait: list[float]  # seconds of these spent waiting for data

    @property
    def name(self) -> str:
        """What the run is called in tables and curves."""
        return self.folder.resolve().name


def read_run(folder: Path) -> RunData:
    """Records and, where the run has ended, summary of the run in ``folder``.

    Raises:
        PivotNetError: ``folder`` holds no run, or a damaged one.
    """
    summary = read_summary(folder) if (folder / SUMMARY).exists() else None
    records: list[dict[str, Any]] = []
    seconds: list[float] = []
    waits: list[float] = []
    for path in sorted(folder.glob("steps.rank*.jsonl")):
        try:
            own = list(read_records(path))
            counted = [record for record in own if record["counted"]]
            seconds += [record["seconds"] for record in counted]
            waits += [record["data_wait"] for record in counted]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PivotNetError(f"{path} cannot be read ({error!r}): it holds no records of pivotnet train") from error
        if path == records_path(folder, 0):
            records = own
    if summary is None and not records:
        raise PivotNetError(f"{folder} holds no training run: give the --output folder of one")
    return RunData(folder, summary, records, seconds, waits)


def earlier_seconds(summary: dict[str, Any], folder: Path) -> float:
    """Seconds that the processes which this run resumed have trained, up to the checkpoint that it went on from."""
    if not summary.get("start_step"):
        return 0.0
    own = [record for record in read_run(folder).records if record["step"] >= summary["start_step"]]
    return max(0.0, summary["train_seconds"] - sum(record["seconds"] or 0.0 for record in own))
