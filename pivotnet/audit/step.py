"""The phases of a training step; runs a step as the trainer does, and counts it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from pivotnet import device as devices
from pivotnet.audit.counts import Audit
from pivotnet.audit.recorder import Recorder
from pivotnet.audit.sample import random_batch
from pivotnet.config import Config
from pivotnet.distributed import Ranks
from pivotnet.training.loop import Run, Trainer

# The phases of our network: each begins with the forward pass of a module, and lasts until the next begins.
NETWORK_PHASES = {
    "im_backbone": "backbone forward",
    "bev_decoder.bev_encoder": "BEV forward",
    "ins_decoder.bev_decoder": "line decoder forward",
    "output_head": "point head forward",
}


def announce_phases(
    network: nn.Module,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    enter: Callable[[str], None],
    network_phases: Mapping[str, str] = NETWORK_PHASES,
) -> None:
    """From now on, call ``enter`` with the name of each phase when it begins. A step has an input phase before the
    first of these, which the caller enters. ``network_phases`` has names by the path of the module that begins them."""

    def entering(phase: str) -> Callable[..., None]:
        return lambda *_: enter(phase)

    for path, phase in network_phases.items():
        network.get_submodule(path).register_forward_pre_hook(entering(phase))
    criterion.register_forward_pre_hook(entering("criterion"))
    criterion.register_forward_hook(entering("backward"))
    optimizer.register_step_pre_hook(entering("optimiser"))
    optimizer.register_step_post_hook(entering("loss report"))


def audit_step(
    config: Config, device: torch.device, ranks: Ranks, samples: int = 1, amp: torch.dtype | None = None
) -> Audit:
    """Counts of a training step in which nothing is done for the first time. That is the second. On a CPU the counts
    are those of a device that has the CPU's operators. Of several ranks each audits itself."""
    batches = [random_batch(config, samples, seed=2 * ranks.rank + step) for step in range(2)]
    if devices.pin_memory(device):  # as the loader does
        batches = [batch.pin_memory() for batch in batches]
    recorder = Recorder(device)
    with recorder.recording():
        trainer = Trainer(config, recorder.device, ranks, Run(Path(), lr=config.optim.lr, amp=amp))
        announce_phases(trainer.model, trainer.criterion, trainer.optimizer, recorder.enter)
        for batch in batches:
            recorder.enter("input")
            recorder.audit = Audit()
            trainer.train_step(batch)
            recorder.end_phase()
    return recorder.audit
