"""Upstream's callbacks by name: checkpoints, progress and gradient clipping. Checkpoints appear whole or not at all,
are read without unpickling objects, and hold the optimiser in torch.optim.AdamW's form whichever kernel ran. Progress
and step times are shown and written as ``pivotnet train`` does: every run leaves train.log, tensorboard/,
steps.rank<R>.jsonl (see training/records.py) and summary.json (see training/summary.py) in PIVOTNET_OUTPUT, or in the
run's own output folder. PIVOTNET_PERFORMANCE_FLAG=1 stops after PIVOTNET_PERFORMANCE_STEPS steps (1500) and prints the
Final result."""

from __future__ import annotations

import atexit
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from pivotnet import device as devices
from pivotnet import heartbeat
from pivotnet.checkpoint import load_optimizer_state, read_checkpoint, save_checkpoint, upstream_state
from pivotnet.distributed import average_over_ranks, ranks_from_environment
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike, make_folder
from pivotnet.limits import whole_number
from pivotnet.structures import Targets
from pivotnet.training.records import Monitor, StepRecords, check_loss
from pivotnet.training.summary import SUMMARY, TITLE, final_lines, read_summary, summarise, write_summary

FLAG, STEPS, OUTPUT = "PIVOTNET_PERFORMANCE_FLAG", "PIVOTNET_PERFORMANCE_STEPS", "PIVOTNET_OUTPUT"
DEFAULT_STEPS = 1500
STARTED = time.perf_counter()  # about when the process did
READ_EVERY = 10  # steps: losses are read together, since each time the host waits for the device


def requested_steps() -> int | None:
    """Steps of a performance run, of which one at least can be timed; None for an ordinary run."""
    if os.environ.get(FLAG, "0") in ("", "0"):
        return None
    return whole_number(STEPS, os.environ.get(STEPS, str(DEFAULT_STEPS)), least=2)


def add_evaluation(split: str, table: dict[str, Any]) -> None:
    """Put the table of a split into the summary in PIVOTNET_OUTPUT; nothing where there is none."""
    folder = os.environ.get(OUTPUT)
    if folder and (Path(folder) / SUMMARY).is_file():
        summary = read_summary(Path(folder))
        summary["evaluation"] = {**summary.get("evaluation", {}), split: table}
        write_summary(Path(folder), summary)


class Callback:
    """Called by upstream's executors where a method of the right name exists; on the ranks of ``enabled_rank``."""

    enabled_rank: list[int] | None = None  # None: all


class CheckPointSaver(Callback):
    """Writes checkpoint_epoch_<n>.pth every ``save_interval`` epochs, and keeps the newest. They go into the folder
    checkpoints of the run in PIVOTNET_OUTPUT; without one into LOCAL_PATH."""

    enabled_rank = [0]

    def __init__(
        self,
        local_path: PathLike,
        filename: str = "checkpoint_epoch_{epoch}.pth",
        remote_path: str | None = None,
        save_interval: int = 1,
        num_keep_latest: int | None = None,
    ) -> None:
        output = os.environ.get(OUTPUT)
        self.local_path, self.filename = Path(output, "checkpoints") if output else Path(local_path), filename
        self.save_interval, self.num_keep_latest = save_interval, num_keep_latest
        self.local_path.mkdir(parents=True, exist_ok=True)

    def after_epoch(self, trainer: Any, epoch: int, update_best_ckpt: bool = False) -> None:
        """Save; raises PivotNetError if a weight is not finite or the file cannot be written."""
        if (epoch + 1) % self.save_interval:
            return
        model = trainer.model.module if isinstance(trainer.model, DistributedDataParallel) else trainer.model
        state = upstream_state(model, trainer.optimizer, trainer.epoch, trainer.global_step)
        save_checkpoint(self.local_path / self.filename.format(epoch=epoch), state)
        if self.num_keep_latest:
            found = sorted(self.local_path.glob(self.filename.format(epoch="*")), key=lambda path: path.stat().st_mtime)
            for path in found[: -self.num_keep_latest]:
                path.unlink()


class CheckPointLoader(Callback):
    """Loads a checkpoint, ours or upstream's: weights, and unless ``weight_only`` optimiser and counters."""

    def __init__(self, path: PathLike, weight_only: bool = False) -> None:
        self.path, self.weight_only = path, weight_only

    def load_checkpoint(self, trainer: Any) -> None:
        """Load; raises PivotNetError if the file is unreadable or of another network."""
        checkpoint = read_checkpoint(self.path)
        self._load_weights(trainer.model, checkpoint["model_state"])
        if self.weight_only:
            return
        trainer.epoch = checkpoint.get("epoch", -1) + 1
        trainer.global_step = checkpoint.get("global_step", 0)  # steps done; the next step has this number
        if "optimizer_state" in checkpoint and hasattr(trainer, "train"):
            load_optimizer_state(trainer.optimizer, checkpoint["optimizer_state"])

    def _load_weights(self, model: torch.nn.Module, state: dict[str, Tensor]) -> None:
        own = model.state_dict()
        weights = {name.removeprefix("module."): tensor for name, tensor in state.items()}
        fitting = {name: weights[name] for name in own if name in weights and weights[name].shape == own[name].shape}
        if len(fitting) < len(own):
            absent = next(name for name in own if name not in fitting)
            message = f"checkpoint {self.path} has {len(fitting)} of the network's {len(own)} tensors, not {absent}"
            if not self.weight_only:
                raise PivotNetError(f"{message}: choose the checkpoint of this config")
            Console(stderr=True).print(f"warning: {message}", markup=False)
        model.load_state_dict(fitting, strict=False)


class ClearMLCallback(Callback):
    """Upstream's reports to a ClearML server, which the port does not make."""

    def __init__(self) -> None:
        raise PivotNetError("the port does not report to ClearML: pass --no-clearml (TensorBoard has the curves)")


class TextMonitor(Callback):
    """Upstream's log lines and curves, which ProgressBar shows."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass


TensorBoardMonitor = TextMonitor


class ClipGrad(Callback):
    def __init__(self, max_norm: float) -> None:
        self.max_norm = max_norm

    def before_optimize(self, trainer: Any) -> None:
        clip_grad_norm_(trainer.model.parameters(), self.max_norm)


class ProgressBar(Callback):
    """The clock of a run, and what it shows."""

    def __init__(self, logger: Any = None) -> None:
        self.steps = requested_steps()
        self.ranks = ranks_from_environment()
        self.instances = 0  # of this epoch
        self.waiting: list[tuple[dict[str, Any], list[str], Tensor]] = []  # record, names of terms, values

    def before_train(self, executor: Any) -> None:
        self.device = next(executor.model.parameters()).device
        saver = next(callback for callback in executor.callbacks if hasattr(callback, "local_path"))
        folder = make_folder(os.environ.get(OUTPUT) or Path(saver.local_path).parent)
        left = (executor.exp.max_epoch - executor.epoch) * len(executor.train_dataloader)
        start = executor.global_step
        if self.steps and os.environ.get(OUTPUT):  # of a run script, which may resume
            self.steps -= start
            if self.steps <= 0:
                raise PivotNetError(f"the run has made its {start} steps already: give more --steps")
        steps = self.steps or left
        self.records = StepRecords(folder, self.ranks.rank, start, steps)
        options = {"log_every": executor.exp.print_interval, "enabled": self.ranks.main}
        self.monitor = Monitor(folder, total_steps=start + steps, start_step=start, **options)
        atexit.register(self.monitor.close)
        devices.reset_peak_memory(self.device)
        self.stop_heartbeat = heartbeat.start(self.ranks.rank)
        self.began = time.perf_counter()
        self.records.request()

    def before_step(self, executor: Any, step: int, data_dict: Any) -> None:
        self.records.loaded()
        heartbeat.arrive()
        targets = data_dict["targets"]  # BeMapNet's have the label -1 for none
        counts = targets.counts if isinstance(targets, Targets) else targets["labels"][..., 0] >= 0
        self.instances += int(counts.sum())

    def after_step(
        self, executor: Any, step: int, data_dict: Any, loss: Tensor, extra: dict[str, Tensor] | None
    ) -> None:
        """Ends the process after the last step of a performance run. ``extra`` are the terms of the loss."""
        terms = extra or {}
        record = self.records.end(executor.optimizer.param_groups[0]["lr"])
        values = [torch.as_tensor(value, dtype=torch.float32, device=loss.device) for value in terms.values()]
        self.waiting.append((record, list(terms), torch.stack([loss.detach().float(), *values])))
        if len(self.waiting) == READ_EVERY:
            self._write()
        if self.records.done == self.steps:
            summary = self.after_train(executor)
            if self.ranks.main and not os.environ.get(OUTPUT):  # a run script prints it itself
                print("\n".join([TITLE, *final_lines(summary, "performance")]), flush=True)
            sys.exit(0)
        self.records.request()

    def _write(self) -> None:
        """Read the losses, and write and show their steps. Raises CollectiveError: a loss is not finite."""
        if not self.waiting:
            return
        rows = average_over_ranks(torch.stack([values for _, _, values in self.waiting]), self.ranks).tolist()
        memory = devices.peak_memory(self.device)
        for (record, names, _), (loss, *values) in zip(self.waiting, rows):
            terms = dict(zip(names, values))
            check_loss(record["step"], loss, terms, "look at that step's samples, and take an earlier checkpoint")
            self.records.add(record, loss, terms)
            self.monitor.step(record, memory)
        self.waiting.clear()

    def after_epoch(self, executor: Any, epoch: int, update_best_ckpt: bool = False) -> None:
        self.records.disturb()  # a checkpoint or an evaluation
        self.monitor.end_epoch(self.instances)
        self.instances = 0

    def after_train(self, executor: Any) -> dict[str, Any]:
        """Write the summary; a resumed run may have made all its steps before."""
        self.stop_heartbeat()
        self._write()
        self.records.close()
        self.monitor.close()
        exp = executor.exp
        known = {"preset": exp.exp_name, "precision": "float32", "seed": exp.seed, "epochs": exp.max_epoch}
        known.update(steps_per_epoch=len(executor.train_dataloader), samples=exp.train_dataset_size, finished=True)
        known.update(train_seconds=time.perf_counter() - self.began)
        summary = summarise(self.records, self.ranks, self.device, exp.batch_size_per_device, STARTED, **known)
        if self.ranks.main:
            write_summary(self.records.path.parent, summary)
        return summary
