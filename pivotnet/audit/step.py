"""Runs a training step as the trainer does, and counts it."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from pivotnet import device as devices
from pivotnet.audit.counts import Audit
from pivotnet.audit.kernels import single_kernels
from pivotnet.audit.phases import Phases
from pivotnet.audit.recorder import Recorder
from pivotnet.audit.sample import random_batch
from pivotnet.config import Config
from pivotnet.distributed import Ranks
from pivotnet.training.loop import Run, Trainer
from pivotnet.training.setup import build_trainer


def audit_step(config: Config, device: torch.device, ranks: Ranks, samples: int = 1) -> Audit:
    """Counts of a training step in which nothing is done for the first time.

    That is the second, or the third of several ranks: DistributedDataParallel settles its buckets at the second.

    Args:
        config: network and criterion.
        device: where it runs; on a CPU the counts are those of a device that has the CPU's operators.
        ranks: this process among the others; each audits itself.
        samples: of a rank.
    """
    phases = Phases()
    recorder = Recorder(device, phases)
    phases.at_end = recorder.end_phase
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        trainer = build_trainer(config, device, ranks, Run(Path(folder), lr=config.optim.lr))
        trainer.device = recorder.device
        recorder.take(_tensors(trainer))
        steps = 2 if ranks.world_size == 1 else 3
        batches = [random_batch(config, samples, seed=steps * ranks.rank + step) for step in range(steps)]
        if devices.pin_memory(device):  # as the loader does
            batches = [batch.pin_memory() for batch in batches]
        stack.enter_context(single_kernels(recorder))
        stack.enter_context(phases.watch(trainer))
        with recorder.recording():
            for batch in batches:
                recorder.audit = Audit()
                trainer.train_step(batch)
                recorder.end_phase()
    return recorder.audit


def _tensors(trainer: Trainer) -> list[Tensor]:
    """Everything that the trainer keeps on the device."""
    kept = [*trainer.model.parameters(), *trainer.model.buffers(), *trainer.criterion.buffers(), *trainer._flags]
    kept += [parameter.grad for parameter in trainer.model.parameters() if parameter.grad is not None]
    states = [state for state in trainer.optimizer.state.values()]
    return kept + [value for state in states for value in state.values() if isinstance(value, Tensor)]
