"""The training loop: one host wait a step.

The only place where the host waits for the device is inside the criterion, where matching needs the predictions; the
loss terms of the step before ride along in the same copy. So losses, the NaN check and the request to stop are known
one step late, by all ranks at the same step, and checkpoints are written only behind a loss known to be finite.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pivotnet import checkpoint as checkpoints
from pivotnet import device as devices
from pivotnet.config import Config
from pivotnet.criterion.criterion import Criterion, CriterionResult
from pivotnet.distributed import CollectiveError, Ranks, agree, average_over_ranks, gather_objects
from pivotnet.errors import PivotNetError
from pivotnet.structures import Batch, Predictions
from pivotnet.training.graphs import GraphedNetwork
from pivotnet.training.monitor import Monitor
from pivotnet.training.optim import MultiStepSchedule
from pivotnet.training.shutdown import Shutdown
from pivotnet.training.timing import StepRecords, StepTimer


@dataclass(frozen=True)
class Run:
    """What is chosen for a run beside its preset."""

    output: Path
    steps: int = 1  # the run ends after this step
    steps_per_epoch: int = 1
    seed: int = 0
    save_every: int = 1  # steps
    keep: int = 1  # checkpoints
    lr: float | None = None  # overrides the preset's; see ``learning_rates``
    backbone_lr: float | None = None
    amp: torch.dtype | None = None
    allow_tf32: bool = False
    graph: bool = False  # replay the network's passes as captured graphs
    backbone_weights: Path | None = None  # start from a pretrained backbone file
    pretrained: Path | None = None  # or from a checkpoint's weights


class Trainer:
    """Network, criterion, optimiser and schedule, and the step that joins them.

    Args:
        model: on ``device``, batch norms already synchronised if there are several ranks.
        optimizer: over the model's parameters.
        config: criterion and schedule.
        run: lengths and folders.
        ranks: this process among the others.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: MultiStepSchedule,
        config: Config,
        run: Run,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.config = config
        self.run = run
        self.device = device
        self.ranks = ranks
        self.criterion = Criterion(config).to(device)
        self.network: Callable[..., Predictions] = model
        if ranks.world_size > 1:
            # A depthwise convolution's gradient has other strides along its one input channel: no matter, one element.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            # Synchronised batch norm keeps the buffers of all ranks equal: nothing to broadcast.
            self.network = DistributedDataParallel(model, broadcast_buffers=False, **devices.ddp_options(device))
        self.step = 0
        self.elapsed = 0.0  # seconds in the loop, those of resumed processes included
        self.last: tuple[float, dict[str, float]] | None = None  # loss and terms of the last step read
        self.checkpoint: Path | None = None
        self._terms: list[str] = []
        self._pending: Tensor | None = None  # [2 + terms]: stop requests, total, terms of the step before
        # Constants on the device: making them in a step would be a copy from the host each time.
        self._flags = (torch.zeros(1, device=device), torch.ones(1, device=device))

    def forward_backward(self, batch: Batch, carry: Tensor | None = None) -> CriterionResult:
        """Add one batch's gradients to those there are; ``carry`` rides to the host (see Criterion)."""
        moved = batch.to(self.device, non_blocking=True)
        inputs = (moved.images, moved.reference_points, moved.reference_valid)
        if self.run.graph and self.network is self.model:
            self.network = GraphedNetwork(self.model, inputs, self.run.amp)
        with devices.autocast(self.device, self.run.amp):
            predictions = self.network(*inputs)
        result = self.criterion(predictions, moved.targets, carry)
        result.total.backward()
        return result

    def train_step(self, batch: Batch, stop: bool = False) -> np.ndarray | None:
        """One optimiser step.

        Args:
            batch: in host memory.
            stop: this rank was asked to stop; the others learn of it with the losses.

        Returns:
            What ``train_step`` left pending in the step before (see ``read``), None after the first.
        """
        self.schedule.apply(self.optimizer, self.step)
        self.optimizer.zero_grad()
        result = self.forward_backward(batch, self._pending)
        self.optimizer.step()
        self._terms = sorted(result.terms)
        values = [result.total, *(result.terms[name] for name in self._terms)]
        vector = torch.cat([self._flags[stop], torch.stack([value.detach().float() for value in values])])
        self._pending = average_over_ranks(vector, self.ranks)
        self.step += 1
        return result.piggybacked

    def settle(self, batch: Batch) -> None:
        """Let DistributedDataParallel order its buckets, before a resumed state is loaded.

        It does so after its first backward pass, by the order in which gradients came. The order of summation over
        the ranks follows the buckets; without this the first step after a resume would be summed in another order
        than the same step of an uninterrupted run.
        """
        if self.ranks.world_size > 1:
            self.model.train()
            self.forward_backward(batch)
            self.optimizer.zero_grad()

    def read(self, values: np.ndarray, step: int) -> bool:
        """Take in the pending values of ``step``; returns whether any rank was asked to stop.

        Raises:
            CollectiveError: the loss is not finite.
        """
        loss, terms = float(values[1]), dict(zip(self._terms, values[2:].tolist()))
        if not all(math.isfinite(value) for value in (loss, *terms.values())):
            bad = ", ".join(name for name, value in terms.items() if not math.isfinite(value)) or "total"
            kept = f"the last checkpoint is {self.checkpoint}" if self.checkpoint else "no checkpoint was written"
            raise CollectiveError(
                f"the loss of step {step} is {loss} (terms: {bad}): try a lower --lr, or look at that step's samples; "
                f"{kept}"
            )
        self.last = loss, terms
        return bool(values[0] > 0)

    def fit(
        self,
        batches: Iterable[Batch],
        records: StepRecords,
        monitor: Monitor,
        timer: StepTimer,
        shutdown: Shutdown,
        after_step: Callable[[], None] | None = None,
    ) -> bool:
        """Train until ``run.steps`` or a request to stop; saves at the end. Returns whether the run is complete.

        Args:
            batches: one a step, from step ``self.step`` on.
            records: where each step is written down.
            monitor: what rank 0 shows.
            timer: the clock.
            shutdown: whether SIGTERM came.
            after_step: called at the end of each step (the profiler's mark).
        """
        self.model.train()
        stop = False
        waiting: dict[str, Any] | None = None  # record of the step before, whose loss is not known yet

        def finish(values: np.ndarray | None) -> bool:
            """Complete the waiting record."""
            nonlocal waiting
            if waiting is None or values is None:
                return False
            asked = self.read(values, waiting["step"])
            assert self.last is not None
            waiting.update(loss=self.last[0], terms=self.last[1])
            records.add(waiting)
            monitor.step(waiting, devices.peak_memory(self.device))
            waiting = None
            return asked

        def flush() -> bool:
            """Read the pending values now, at the price of a host wait."""
            values, self._pending = self._pending, None
            return finish(None if values is None else values.cpu().numpy())

        timer.request()
        for batch in batches:
            timer.loaded()
            stop = finish(self.train_step(batch, shutdown.requested)) or stop
            waiting = {"step": self.step - 1, **timer.end(), "lr": self.optimizer.param_groups[0]["lr"]}
            if waiting["seconds"] is not None:
                self.elapsed += waiting["seconds"]
            shutdown.step_done()
            if after_step is not None:
                after_step()
            if self.step % self.run.save_every == 0 or self.step == self.run.steps or stop:
                shutdown.busy = True
                stop = flush() or stop
                self.save(monitor)
                shutdown.busy = False
                timer.disturb()
                if stop:
                    break
            timer.request()
        return self.step >= self.run.steps

    def save(self, monitor: Monitor) -> None:
        """Write a checkpoint of the state after ``self.step`` steps, from rank 0, and remove old ones.

        Raises:
            CollectiveError: it cannot be written, or a weight is not finite.
        """
        states = gather_objects(devices.rng_state(self.device), self.ranks)
        folder = self.run.output / "checkpoints"
        path = folder / checkpoints.NAME.format(self.step)
        error: PivotNetError | None = None
        if self.ranks.main:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                checkpoints.save_checkpoint(path, self._state(states))
                checkpoints.remove_old(folder, self.run.keep)
                monitor.say(f"saved {path}")
            except PivotNetError as caught:
                error = caught
        agree(error, self.ranks)
        self.checkpoint = path

    def _state(self, rng_states: list[dict[str, Any]]) -> dict[str, Any]:
        return checkpoints.pack_checkpoint(
            model=self.model,
            optimizer=self.optimizer,
            config=self.config,
            step=self.step,
            steps_per_epoch=self.run.steps_per_epoch,
            run={
                "world_size": self.ranks.world_size,
                "batch_size": self.config.optim.batch_size,
                "seed": self.run.seed,
                "elapsed": self.elapsed,
                "rng": rng_states,
            },
        )

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Continue from a checkpoint's dict: weights, optimiser, step, random state."""
        checkpoints.load_weights(self.model, state, path, self.config)
        checkpoints.load_optimizer_state(self.optimizer, state["optimizer_state"])
        run = state["pivotnet"]
        self.step, self.elapsed, self.checkpoint = run["step"], run["elapsed"], path
        if run["world_size"] == self.ranks.world_size:
            devices.set_rng_state(self.device, run["rng"][self.ranks.rank])


def with_first(batches: Iterable[Batch]) -> tuple[Batch, Iterator[Batch]]:
    """The first batch, and all of them."""
    iterator = iter(batches)
    first = next(iterator)
    return first, chain([first], iterator)
