"""The training loop: one host wait a step. The only place where the host waits for the device is inside the criterion,
where matching needs the predictions; the loss terms of the step before are piggybacked on the same copy. So losses, the
NaN check and the request to stop are known one step late, by all ranks at the same step, and checkpoints are written
only after the loss is known to be finite."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pivotnet import checkpoint as checkpoints
from pivotnet import device as devices
from pivotnet import heartbeat
from pivotnet.config import Config
from pivotnet.criterion.criterion import Criterion, CriterionResult
from pivotnet.distributed import Ranks, agreed, average_over_ranks, gather_objects
from pivotnet.errors import PivotNetError
from pivotnet.model.backbone.pretrained import load_pretrained
from pivotnet.model.ops.sync_batch_norm import convert_sync_batch_norm
from pivotnet.model.pivotnet import PivotNet
from pivotnet.structures import Batch, Predictions
from pivotnet.training.execution import MixedPrecision, graphed_network
from pivotnet.training.optim import MultiStepSchedule, build_optimizer, learning_rates
from pivotnet.training.records import Monitor, StepRecords, check_loss
from pivotnet.training.shutdown import Shutdown

AMP = {"none": None, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Run:
    """The options of a run, which ``pivotnet train --help`` describes; ``job.plan`` completes its lengths."""

    output: Path
    preset: str = ""
    data_root: str = ""
    split: str = "train"
    epochs: int | None = None
    steps: int = 0  # the run ends after this step; 0: after the epochs
    steps_per_epoch: int = 1
    batch_size: int | None = None
    lr: float | None = None
    backbone_lr: float | None = None
    amp: torch.dtype | None = None
    allow_tf32: bool = False
    seed: int = 0
    deterministic: bool = False
    resume: str | None = None  # a checkpoint, or "" for the newest one in the output folder
    pretrained: Path | None = None
    backbone_weights: Path | None = None
    checkpointing: bool | None = None
    graph: bool = False
    workers: int | None = None
    save_every: int = 0  # steps; 0: an epoch
    keep: int = 3  # checkpoints
    log_every: int = 10
    evaluate: str = ""  # splits, separated by commas
    profile: int | None = None  # steps

    @property
    def precision(self) -> str:
        return "float32" if self.amp is None else "bf16"


class Trainer:
    """Network, criterion, optimiser and schedule before the first step, and the step that joins them; every rank makes
    one. Raises CollectiveError: no learning rate is known for so many ranks, a weight file does not fit, or graphs
    cannot be had."""

    def __init__(self, config: Config, device: torch.device, ranks: Ranks, run: Run) -> None:
        self.config, self.device, self.ranks, self.run = config, device, ranks, run
        with agreed(ranks):
            if run.graph:
                devices.check_graphs(device)
                if config.model.checkpointing:
                    raise PivotNetError("--graph cannot take recomputed activations: give --no-checkpointing")
            rates = learning_rates(config.optim, ranks.world_size, run.lr, run.backbone_lr)
            devices.set_reduced_precision(run.allow_tf32)
            torch.manual_seed(run.seed)  # the same weights in every rank
            model = self.model = PivotNet(config.model, config.map)
            if run.backbone_weights:
                load_pretrained(model.im_backbone, config.model.backbone, run.backbone_weights)
            if run.pretrained:
                checkpoints.load_weights(model, checkpoints.read_checkpoint(run.pretrained), run.pretrained, config)
        if ranks.world_size > 1:
            convert_sync_batch_norm(model)
        model.to(device).train()
        self.optimizer = build_optimizer(model, config.optim, rates, ranks)
        self.schedule = MultiStepSchedule(config.optim, rates, run.steps_per_epoch)
        self.criterion = Criterion(config).to(device)
        self.network: Callable[..., Predictions] = MixedPrecision(model, run.amp) if run.amp else model
        self.step = 0
        self.elapsed = 0.0  # seconds in the loop, those of resumed processes included
        self.checkpoint: Path | None = None
        self._terms: list[str] = []
        self._pending: Tensor | None = None  # [2 + terms]: stop requests, total, terms of the step before
        # Constants on the device: making them in a step would be a copy from the host each time.
        self._flags = (torch.zeros(1, device=device), torch.ones(1, device=device))

    def forward_backward(self, batch: Batch, piggyback: Tensor | None = None) -> CriterionResult:
        """Add one batch's gradients to those there are; ``piggyback`` goes to the host as well (see Criterion)."""
        moved = batch.to(self.device, non_blocking=True)
        inputs = (moved.images, moved.reference_points, moved.reference_valid)
        if self.run.graph and isinstance(self.network, nn.Module):
            self.network = graphed_network(self.network, inputs)
        result = self.criterion(self.network(*inputs), moved.targets, piggyback)
        result.total.backward(self._flags[1][0])  # that constant too
        return result

    def train_step(self, batch: Batch, stop: bool = False) -> np.ndarray | None:
        """One optimiser step for a batch in host memory. If this rank was asked to ``stop``, the others receive that
        with the losses. Returns what the step before left pending, None after the first."""
        self.schedule.apply(self.optimizer, self.step)
        self.optimizer.zero_grad()
        result = self.forward_backward(batch, self._pending)
        self.optimizer.step()
        self._terms = sorted(result.terms)
        values = [result.total, *(result.terms[name] for name in self._terms)]
        vector = torch.cat([self._flags[stop], *(value.detach().float()[None] for value in values)])
        self._pending = average_over_ranks(vector, self.ranks)
        self.step += 1
        return result.piggybacked

    def fit(
        self, batches: Iterable[Batch], records: StepRecords, monitor: Monitor, shutdown: Shutdown, profiler: Any = None
    ) -> bool:
        """Train until ``run.steps`` or a request to stop; saves at the end. Returns whether the run is complete.
        ``batches`` has one a step, from step ``self.step`` on."""
        record: dict[str, Any] | None = None  # of the step before, whose losses are still on the device
        stop = False
        instances = self.step % self.run.steps_per_epoch  # not 0 when an epoch goes on, which is not judged

        records.request()
        for batch in batches:
            records.loaded()
            heartbeat.arrive()
            values = self.train_step(batch, shutdown.requested)
            if record is not None and values is not None:
                stop = self._complete(record, values, records, monitor)
            record = records.end(self.optimizer.param_groups[0]["lr"])
            self.elapsed += record["seconds"] or 0.0
            instances += int(batch.targets.counts.sum()) if batch.targets else 0  # on the host
            if self.step % self.run.steps_per_epoch == 0:
                monitor.end_epoch(instances)
                instances = 0
            shutdown.step_done()
            if profiler is not None:
                profiler.step()

            if stop or self.step == self.run.steps or self.step % self.run.save_every == 0:
                shutdown.busy = True
                assert self._pending is not None
                values, self._pending = self._pending.cpu().numpy(), None  # one more host wait
                stop = self._complete(record, values, records, monitor) or stop
                record = None
                self.save(monitor)
                shutdown.busy = False
                records.disturb()
                if stop:
                    break
            records.request()
        return self.step >= self.run.steps

    def _complete(self, record: dict[str, Any], values: np.ndarray, records: StepRecords, monitor: Monitor) -> bool:
        """Write and show a step with its losses; returns whether any rank was asked to stop."""
        loss, terms = float(values[1]), dict(zip(self._terms, values[2:].tolist()))
        kept = f"the last checkpoint is {self.checkpoint}" if self.checkpoint else "no checkpoint was written"
        check_loss(record["step"], loss, terms, f"try a lower --lr, or look at that step's samples; {kept}")
        records.add(record, loss, terms)
        monitor.step(record, devices.peak_memory(self.device))
        return bool(values[0] > 0)

    def save(self, monitor: Monitor) -> None:
        """Write a checkpoint from rank 0, and remove old ones; CollectiveError where it cannot be written."""
        states = gather_objects(devices.rng_state(self.device), self.ranks)
        folder = self.run.output / "checkpoints"
        path = folder / checkpoints.NAME.format(self.step)
        with agreed(self.ranks):
            if self.ranks.main:
                folder.mkdir(parents=True, exist_ok=True)
                checkpoints.save_checkpoint(path, self._state(states))
                checkpoints.remove_old(folder, self.run.keep)
                monitor.say(f"saved {path}")
        self.checkpoint = path

    def _state(self, rng_states: list[dict[str, Any]]) -> dict[str, Any]:
        epoch = self.step // self.run.steps_per_epoch - 1
        state = checkpoints.upstream_state(self.model, self.optimizer, epoch, self.step)
        run = {"config": self.config.to_dict(), "step": self.step, "elapsed": self.elapsed, "rng": rng_states}
        run.update(world_size=self.ranks.world_size, batch_size=self.config.optim.batch_size, seed=self.run.seed)
        return {**state, "pivotnet": run}

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Continue from a checkpoint's dict: weights, optimiser, step, random state."""
        checkpoints.load_weights(self.model, state, path, self.config)
        checkpoints.load_optimizer_state(self.optimizer, state["optimizer_state"])
        run = state["pivotnet"]
        self.step, self.elapsed, self.checkpoint = run["step"], run["elapsed"], path
        if run["world_size"] == self.ranks.world_size:
            devices.set_rng_state(self.device, run["rng"][self.ranks.rank])
