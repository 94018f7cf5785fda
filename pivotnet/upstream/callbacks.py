"""Upstream's callbacks by name: checkpoints, progress (see performance.py) and gradient clipping.

Checkpoints appear whole or not at all, are read without unpickling objects, and hold the optimiser in
torch.optim.AdamW's form whichever kernel ran.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from pivotnet.checkpoint import load_optimizer_state, read_checkpoint, save_checkpoint, upstream_state
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike
from pivotnet.upstream import performance


class Callback:
    """Called by upstream's executors where a method of the right name exists; on the ranks of ``enabled_rank``."""

    enabled_rank: list[int] | None = None  # None: all


class CheckPointSaver(Callback):
    """Writes checkpoint_epoch_<n>.pth every ``save_interval`` epochs, and keeps the newest.

    They go into the folder checkpoints of the run in PIVOTNET_OUTPUT; without one into LOCAL_PATH.
    """

    enabled_rank = [0]

    def __init__(
        self,
        local_path: PathLike,
        filename: str = "checkpoint_epoch_{epoch}.pth",
        remote_path: str | None = None,
        save_interval: int = 1,
        num_keep_latest: int | None = None,
    ) -> None:
        output = os.environ.get(performance.OUTPUT)
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


ProgressBar, TensorBoardMonitor = performance.Performance, TextMonitor


class ClipGrad(Callback):
    """Clips the norm of all gradients."""

    def __init__(self, max_norm: float) -> None:
        self.max_norm = max_norm

    def before_optimize(self, trainer: Any) -> None:
        clip_grad_norm_(trainer.model.parameters(), self.max_norm)
