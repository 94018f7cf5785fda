"""Step times of upstream's trainer, written as ``pivotnet train`` writes them.

Every run leaves steps.rank<R>.jsonl and summary.json (training/timing.py says what is in them) in PIVOTNET_OUTPUT, or
the run's own output folder, where ``pivotnet report`` finds them. PIVOTNET_PERFORMANCE_FLAG=1 stops after
PIVOTNET_PERFORMANCE_STEPS steps (1500) and prints the Final result.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Optional

import torch
import torch.distributed as dist
from torch import Tensor

from pivotnet import device as devices
from pivotnet.distributed import Ranks, gather_objects
from pivotnet.errors import PivotNetError
from pivotnet.report.final import TITLE, final_lines
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
READ_EVERY = 10  # steps: losses are read together, since each time the host waits for the device


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


def add_evaluation(split: str, table: dict[str, Any]) -> None:
    """Put the table of a split into the summary in PIVOTNET_OUTPUT; nothing where there is none."""
    folder = os.environ.get(OUTPUT)
    if folder and (Path(folder) / "summary.json").is_file():
        summary = json.loads((Path(folder) / "summary.json").read_text())
        summary["evaluation"] = {**summary.get("evaluation", {}), split: table}
        write_summary(folder, summary)


class Performance:
    """The clock of a run.

    Args:
        steps: end the process after so many; None: measure until training ends.
    """

    def __init__(self, steps: Optional[int], device: torch.device) -> None:
        self.steps, self.device = steps, device
        self.started = time.perf_counter()
        self.waiting: list[tuple[dict[str, Any], Tensor]] = []
        self.names: list[str] = []
        self.last: dict[str, Any] = {}

    def begin(self, executor: Any) -> None:
        """Training starts."""
        saver = next(callback for callback in executor.callbacks if hasattr(callback, "local_path"))
        self.folder = Path(os.environ.get(OUTPUT) or Path(saver.local_path).parent)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ranks = Ranks(rank=dist.get_rank(), world_size=dist.get_world_size())
        self.first = executor.global_step
        left = (executor.exp.max_epoch - executor.epoch) * len(executor.train_dataloader)
        self.timer = StepTimer(warmup_steps(self.steps or left))
        self.records = StepRecords(self.folder, self.ranks.rank, self.first)
        devices.reset_peak_memory(self.device)
        self.began = time.perf_counter()
        self.timer.request()

    def loaded(self) -> None:
        """The batch of the next step is there."""
        self.timer.loaded()

    def epoch_done(self) -> None:
        """What comes now (a checkpoint, an evaluation) is no step."""
        self.timer.disturb()

    def step(self, executor: Any, loss: Tensor, terms: Optional[dict[str, Tensor]]) -> None:
        """A step is done; ends the process after the last one of a performance run."""
        number = self.first + self.timer.done
        record = {"step": number, **self.timer.end(), "lr": executor.optimizer.param_groups[0]["lr"]}
        self.names = list(terms or {})
        self.waiting.append((record, torch.stack([value.float() for value in (loss, *(terms or {}).values())])))
        if len(self.waiting) == READ_EVERY:
            self._flush()
        if self.timer.done == self.steps:
            summary = self.finish(executor)
            if summary:
                print("\n".join([TITLE, *final_lines(summary, "performance")]), flush=True)
            sys.exit(0)
        self.timer.request()

    def _flush(self) -> None:
        if not self.waiting:
            return
        rows = torch.stack([values for _, values in self.waiting]).tolist()
        for (record, _), (loss, *terms) in zip(self.waiting, rows):
            self.last = {**record, "loss": loss, "terms": dict(zip(self.names, terms))}
            self.records.add(self.last)
        self.waiting.clear()

    def finish(self, executor: Any) -> Optional[dict[str, Any]]:
        """Write the summary; returns it on rank 0 (None elsewhere, and when no step was made)."""
        self._flush()
        self.records.close()
        times, waits = counted_times(self.records.path)
        gathered = gather_objects((times, waits, devices.peak_memory(self.device)), self.ranks)
        if not self.ranks.main or not self.last:
            return None
        exp, now = executor.exp, time.perf_counter()
        global_batch = exp.batch_size_per_device * self.ranks.world_size
        all_times, all_waits = ([value for entry in gathered for value in entry[part]] for part in (0, 1))
        summary = {
            "preset": exp.exp_name,
            "device": self.device.type,
            "device_name": devices.device_name(self.device),
            "ranks": self.ranks.world_size,
            "batch_size": exp.batch_size_per_device,
            "global_batch": global_batch,
            "precision": "float32",
            "seed": exp.seed,
            "steps": self.first + self.timer.done,
            "start_step": self.first,
            "epochs": exp.max_epoch,
            "steps_per_epoch": len(executor.train_dataloader),
            "samples": exp.train_dataset_size,
            **summarise(all_times, all_waits, global_batch, self.timer.warmup),
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
        write_summary(self.folder, summary)
        return summary
