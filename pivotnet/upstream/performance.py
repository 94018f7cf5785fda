"""PIVOTNET_PERFORMANCE_FLAG=1: stop after PIVOTNET_PERFORMANCE_STEPS steps (1500) and report the step time.

Writes steps.rank<R>.jsonl and summary.json (training/timing.py says what is in them) into PIVOTNET_OUTPUT, or the run's
own output folder, where ``pivotnet report`` finds them, and prints the same Final result.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor

from pivotnet import device as devices
from pivotnet.errors import PivotNetError
from pivotnet.report.final import TITLE, final_lines
from pivotnet.training.distributed import Ranks, gather_objects
from pivotnet.training.timing import (
    StepRecords,
    StepTimer,
    counted_times,
    summarise,
    warmup_steps,
    write_summary,
)

FLAG, STEPS, OUTPUT = "PIVOTNET_PERFORMANCE_FLAG", "PIVOTNET_PERFORMANCE_STEPS", "PIVOTNET_OUTPUT"
DEFAULT_STEPS = 1500


def requested_steps() -> Optional[int]:
    """Steps of a performance run, None for an ordinary run.

    Raises:
        PivotNetError: PIVOTNET_PERFORMANCE_STEPS is no number, or too small for a step to be timed.
    """
    if os.environ.get(FLAG, "0") in ("", "0"):
        return None
    text = os.environ.get(STEPS, str(DEFAULT_STEPS))
    if not text.isdigit() or int(text) < 2:
        raise PivotNetError(f"{STEPS} is {text!r}: give a whole number of at least 2")
    return int(text)


class Performance:
    """The clock of a performance run."""

    def __init__(self, steps: int, device: torch.device) -> None:
        self.steps, self.device = steps, device
        self.started = time.perf_counter()
        self.timer = StepTimer(warmup_steps(steps))
        self.waiting: Optional[tuple[dict[str, Any], Tensor, list[str]]] = None
        self.last: dict[str, Any] = {}

    def begin(self, executor: Any) -> None:
        """Training starts."""
        saver = next(callback for callback in executor.callbacks if hasattr(callback, "local_path"))
        folder = Path(os.environ.get(OUTPUT) or Path(saver.local_path).parent)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        world, rank = (torch.distributed.get_world_size(), torch.distributed.get_rank())
        self.ranks = Ranks(rank=rank, world_size=world)
        self.records = StepRecords(folder, rank, 0)
        devices.reset_peak_memory(self.device)
        self.began = time.perf_counter()
        self.timer.request()

    def loaded(self) -> None:
        """The batch of the next step is there."""
        self.timer.loaded()

    def step(self, executor: Any, loss: Tensor, terms: Optional[dict[str, Tensor]]) -> None:
        """A step is done; ends the process after the last one."""
        self._flush()
        values = torch.stack([loss.float(), *(value.float() for value in (terms or {}).values())])
        record = {"step": self.timer.done, **self.timer.end(), "lr": executor.optimizer.param_groups[0]["lr"]}
        # Read with the next step: by then the device has them, and the host does not wait.
        self.waiting = (record, values, list(terms or {}))
        if self.timer.done == self.steps:
            self._flush()
            self._finish(executor)
            sys.exit(0)
        self.timer.request()

    def _flush(self) -> None:
        if self.waiting is not None:
            record, values, names = self.waiting
            loss, *terms = values.tolist()
            self.last = {**record, "loss": loss, "terms": dict(zip(names, terms))}
            self.records.add(self.last)
            self.waiting = None

    def _finish(self, executor: Any) -> None:
        self.records.close()
        times, waits = counted_times(self.records.path)
        gathered = gather_objects((times, waits, devices.peak_memory(self.device)), self.ranks)
        if not self.ranks.main:
            return
        exp = executor.exp
        batch = exp.batch_size_per_device
        now = time.perf_counter()
        summary = {
            "preset": exp.exp_name,
            "device": self.device.type,
            "device_name": devices.device_name(self.device),
            "ranks": self.ranks.world_size,
            "batch_size": batch,
            "global_batch": batch * self.ranks.world_size,
            "precision": "float32",
            "seed": exp.seed,
            "steps": self.steps,
            "start_step": 0,
            "epochs": exp.max_epoch,
            "steps_per_epoch": len(executor.train_dataloader),
            "samples": exp.train_dataset_size,
            **summarise(
                [value for one, _, _ in gathered for value in one],
                [value for _, one, _ in gathered for value in one],
                batch * self.ranks.world_size,
                self.timer.warmup,
            ),
            "train_seconds": now - self.began,
            "wall_seconds": now - self.started,
            "peak_memory_bytes": max(memory for _, _, memory in gathered),
            "final_loss": self.last["loss"],
            "final_terms": self.last["terms"],
            "finished": True,
            "checkpoint": None,
            "evaluation": {},
            "versions": devices.versions(),
        }
        path = write_summary(self.folder, summary)
        print("\n".join([TITLE, *final_lines(summary, "performance"), f"Summary: {path}"]), flush=True)
