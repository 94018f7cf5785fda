"""Random inputs and drawn targets for the tests on devices, and how to compare."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pivotnet.audit.sample import random_batch
from pivotnet.config import Config
from pivotnet.distributed import Ranks
from pivotnet.structures import Batch
from pivotnet.training.loop import Run, Trainer
from support.small import network

CPU = torch.device("cpu")
# The ordinary test process, where torch has no NPU, reads these files too, to know their tests.
NPU = torch.device("npu" if hasattr(torch, "npu") else "cpu")
needs_graphs = pytest.mark.skipif(
    NPU.type == "npu" and not hasattr(getattr(torch.npu, "NPUGraph", None), "register_generator_state"),
    reason="this torch_npu has no graphs that draw random numbers (that of torch 2.8 has)",
)


def batch(config: Config, seed: int = 0, samples: int = 1) -> Batch:
    """Random images, cells that look anywhere (one in five sees nothing), and drawn targets."""
    return random_batch(config, samples, seed, counts=(2, 1, 3))


def trainer(config: Config, device: torch.device, folder: Path, **options: Any) -> Trainer:
    """What ``pivotnet train`` makes, for one rank, with the weights of ``network``."""
    run = Run(folder, steps=8, steps_per_epoch=8, save_every=8, lr=config.optim.lr, **options)
    made = Trainer(config, device, Ranks(), run)
    made.model.load_state_dict(network(config).state_dict())
    return made


def losses(made: Trainer, steps: int) -> list[float]:
    """Loss of each step, of which the last one's is read at the end."""
    found = []
    for step in range(steps):
        pending = made.train_step(batch(made.config, seed=step))
        if pending is not None:
            found.append(float(pending[1]))
    assert made._pending is not None
    return [*found, float(made._pending[1])]


def assert_near(actual: Tensor, expected: Tensor, share: float = 1e-5, what: str = "") -> None:
    """Every difference is at most ``share`` of the largest expected value (or of 1, if that is larger)."""
    actual, expected = actual.detach().cpu(), expected.detach().cpu()
    limit = share * max([1.0, *expected.abs().flatten().tolist()])
    assert math.isfinite(limit), what
    torch.testing.assert_close(actual, expected, rtol=0, atol=limit, msg=lambda said: f"{what}: {said}")
