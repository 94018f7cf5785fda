"""Upstream's callbacks by name: checkpoints, progress, logs, curves, gradient clipping.

They write the same files and lines as upstream's. Checkpoints appear whole or not at all, are read without unpickling
objects, and hold the optimiser in torch.optim.AdamW's form whichever kernel ran; losses are read on the host only when
they are printed.
"""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from pivotnet.checkpoint import load_optimizer_state, read_checkpoint, save_checkpoint, upstream_state
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike
from pivotnet.upstream.performance import stack_values

WINDOW = 50  # steps over which printed losses are averaged


class Callback:
    """Called by upstream's executors where a method of the right name exists; on the ranks of ``enabled_rank``."""

    enabled_rank: list[int] | None = None  # None: all


class MasterOnlyCallback(Callback):
    """Runs on rank 0."""

    enabled_rank = [0]


class CheckPointSaver(MasterOnlyCallback):
    """Writes LOCAL_PATH/checkpoint_epoch_<n>.pth every ``save_interval`` epochs, and keeps the newest."""

    def __init__(
        self,
        local_path: PathLike,
        filename: str = "checkpoint_epoch_{epoch}.pth",
        remote_path: str | None = None,
        save_interval: int = 1,
        num_keep_latest: int | None = None,
    ) -> None:
        self.local_path, self.filename, self.remote_path = local_path, filename, remote_path
        self.save_interval, self.num_keep_latest = save_interval, num_keep_latest
        Path(local_path).mkdir(parents=True, exist_ok=True)

    def after_epoch(self, trainer: Any, epoch: int, update_best_ckpt: bool = False) -> None:
        """Save; raises PivotNetError if a weight is not finite or the file cannot be written."""
        if (epoch + 1) % self.save_interval:
            return
        model = trainer.model.module if isinstance(trainer.model, DistributedDataParallel) else trainer.model
        callback = {type(cb).__name__: cb.state_dict() for cb in trainer.callbacks if hasattr(cb, "state_dict")}
        state = upstream_state(model, trainer.optimizer, trainer.epoch, trainer.global_step, callback)
        folder = Path(self.local_path)
        save_checkpoint(folder / self.filename.format(epoch=epoch), state)
        if update_best_ckpt:
            save_checkpoint(folder / "checkpoint_best.pth", state)
        if self.num_keep_latest:
            found = sorted(folder.glob(self.filename.format(epoch="*")), key=lambda path: path.stat().st_mtime)
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
        for callback in trainer.callbacks:
            state = checkpoint.get("callback", {}).get(type(callback).__name__)
            if state is not None and hasattr(callback, "load_state_dict"):
                callback.load_state_dict(state)

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


class ClearMLCallback(MasterOnlyCallback):
    """Reports the run to ClearML, which is optional."""

    def __init__(self) -> None:
        try:
            from clearml import Task
        except ImportError as error:
            raise PivotNetError("clearml is not installed: pass --no-clearml, or pip install clearml") from error
        self._tasks, self.task_id = Task, None

    def after_init(self, executor: Any) -> None:
        if self.task_id is None:
            options = {"reuse_last_task_id": False, "continue_last_task": False}
            self.task = self._tasks.init("det3d", executor.exp.exp_name, auto_connect_frameworks=False, **options)
        else:
            self.task = self._tasks.get_task(task_id=self.task_id)
            self.task.add_tags(["resume"])
        self.task.connect(executor.exp)

    def state_dict(self) -> dict[str, Any]:
        return {"task_id": self.task.task_id}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.task_id = state_dict["task_id"]


class ProgressBar(MasterOnlyCallback):
    """A bar for the steps of the epoch, on a terminal."""

    def __init__(self, logger: Any = None) -> None:
        self.logger = logger
        self.console = Console(stderr=True)
        self.bar: Progress | None = None

    def setup(self, trainer: Any) -> None:
        """Let log lines appear above the bar."""
        if not self.console.is_terminal:
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self.bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.console)
        self.steps = self.bar.add_task("step", total=None)
        if self.logger is not None:
            self.logger.remove(0)
            self.logger.add(lambda text: self.console.print(text, end="", markup=False, highlight=False))

    def before_epoch(self, trainer: Any, epoch: int) -> None:
        if self.bar is not None:
            self.bar.start()
            title = f"epoch {epoch + 1}/{trainer.exp.max_epoch}"
            self.bar.reset(self.steps, total=len(trainer.train_dataloader), description=title)

    def after_step(self, trainer: Any, step: int, data_dict: Any, **result: Any) -> None:
        if self.bar is not None:
            self.bar.advance(self.steps)

    def after_train(self, trainer: Any) -> None:
        if self.bar is not None:
            self.bar.stop()


class TextMonitor(MasterOnlyCallback):
    """A log line every ``interval`` steps."""

    def __init__(self, interval: int = 10) -> None:
        self.interval = interval
        self.window: deque[Tensor] = deque(maxlen=WINDOW)

    def before_epoch(self, trainer: Any, epoch: int) -> None:
        trainer.logger.info(f"e:{epoch} learning rate = {trainer.optimizer.param_groups[0]['lr']:.6f}")
        self.total_step = len(trainer.train_dataloader)

    def after_step(self, trainer: Any, step: int, data_dict: Any, **result: Any) -> None:
        """Means over the last steps; raises PivotNetError if one of them is not finite."""
        extra = result["extra"] or {}
        self.window.append(stack_values(result["loss"], extra))
        if step % self.interval:
            return
        loss, *terms = torch.stack(list(self.window)).mean(dim=0).tolist()
        if not math.isfinite(loss):
            raise PivotNetError(f"the loss is {loss} at step {trainer.global_step}: take an earlier checkpoint")
        named = "".join(f" {name}={value:.4f}" for name, value in zip(extra, terms))
        rate = trainer.optimizer.param_groups[0]["lr"]
        trainer.logger.info(f"e:{trainer.epoch}[{step}/{self.total_step}] lr={rate:.6f} loss={loss:.4f}{named}")


class TensorBoardMonitor(MasterOnlyCallback):
    """Curves every ``interval`` steps."""

    def __init__(self, log_dir: PathLike, interval: int = 10) -> None:
        self.log_dir, self.interval = str(log_dir), interval

    def before_train(self, trainer: Any) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and needed by one rank only

        self.writer = SummaryWriter(self.log_dir)

    def after_step(self, trainer: Any, step: int, data_dict: Any, **result: Any) -> None:
        at = trainer.global_step
        if at % self.interval:
            return
        extra = result["extra"] or {}
        values = stack_values(result["loss"], extra).tolist()
        self.writer.add_scalar("epoch", trainer.epoch, at)
        self.writer.add_scalar("meta_data/learning_rate", trainer.optimizer.param_groups[0]["lr"], at)
        for name, value in zip(["loss", *extra], values):
            self.writer.add_scalar(f"train/{name}", value, at)

    def after_train(self, trainer: Any) -> None:
        self.writer.close()


class ClipGrad(Callback):
    """Clips the norm of all gradients."""

    def __init__(self, max_norm: float) -> None:
        self.max_norm = max_norm

    def before_optimize(self, trainer: Any) -> None:
        clip_grad_norm_(trainer.model.parameters(), self.max_norm)
