"""Runs a training step as the trainer does, and counts it."""

from __future__ import annotations

from pathlib import Path

import torch

from pivotnet import device as devices
from pivotnet.audit.counts import Audit
from pivotnet.audit.phases import announce_phases
from pivotnet.audit.recorder import Recorder
from pivotnet.audit.sample import random_batch
from pivotnet.config import Config
from pivotnet.distributed import Ranks
from pivotnet.training.loop import Run
from pivotnet.training.setup import build_trainer


def audit_step(config: Config, device: torch.device, ranks: Ranks, samples: int = 1) -> Audit:
    """Counts of a training step in which nothing is done for the first time.

    That is the second, or the third of several ranks: DistributedDataParallel rebuilds its buckets at the second.

    Args:
        config: network and criterion.
        device: where it runs; on a CPU the counts are those of a device that has the CPU's operators.
        ranks: this process among the others; each audits itself.
        samples: of a rank.
    """
    steps = 2 if ranks.world_size == 1 else 3
    batches = [random_batch(config, samples, seed=steps * ranks.rank + step) for step in range(steps)]
    if devices.pin_memory(device):  # as the loader does
        batches = [batch.pin_memory() for batch in batches]
    recorder = Recorder(device)
    with recorder.recording():
        trainer = build_trainer(config, recorder.device, ranks, Run(Path(), lr=config.optim.lr))
        announce_phases(trainer.model, trainer.criterion, trainer.optimizer, recorder.enter)
        for batch in batches:
            recorder.enter("input")
            recorder.audit = Audit()
            trainer.train_step(batch)
            recorder.end_phase()
    return recorder.audit
