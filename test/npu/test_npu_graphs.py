"""Training with captured graphs on a simulated NPU: the same numbers as without, and a launch for each pass."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from cannsim.counters import Counters
from scene import NPU, batch, small
from test_npu_training import losses, trainer

from pivotnet.config import Config
from pivotnet.training.loop import Trainer

STEPS = 2

pytestmark = pytest.mark.skipif(
    NPU.type == "npu" and not hasattr(getattr(torch.npu, "NPUGraph", None), "register_generator_state"),
    reason="this torch_npu has no graphs that draw random numbers (that of torch 2.8 has)",
)


def graphed(config: Config, folder: Path, amp: Any = None) -> Trainer:
    made = trainer(config, NPU, folder, amp)
    made.run = dataclasses.replace(made.run, graph=True)
    return made


@pytest.mark.parametrize("name, drop", [("smoke", 0.0), ("smoke", 0.2), ("swint", 0.0)])
def test_replayed_steps_equal_ordinary_steps(name: str, drop: float, tmp_path: Path):
    config = small(name, dropout=drop, drop_connect=drop)
    plain, replayed = trainer(config, NPU, tmp_path), graphed(config, tmp_path)
    found = []
    for made in (plain, replayed):
        torch.manual_seed(1)
        found.append(losses(made, STEPS))
    assert found[0] == found[1]
    expected = plain.model.state_dict()
    for key, tensor in replayed.model.state_dict().items():
        assert torch.equal(tensor.cpu(), expected[key].cpu()), key


def test_graphs_in_bfloat16(tmp_path: Path):
    """Casts are not kept within a graph, so that gradients are summed up in another precision."""
    config = small("smoke")
    plain, replayed = (losses(make(config, tmp_path, amp=torch.bfloat16), 2) for make in (_on_npu, graphed))
    assert replayed[0] == plain[0]
    assert replayed[1] == pytest.approx(plain[1], rel=1e-2)


def _on_npu(config: Config, folder: Path, amp: Any) -> Trainer:
    return trainer(config, NPU, folder, amp)


def test_a_pass_is_one_launch(tmp_path: Path):
    config = small("smoke")
    counter = Counters()
    counts = []
    for made in (trainer(config, NPU, tmp_path), graphed(config, tmp_path)):
        losses(made, 1)
        torch.npu.synchronize()
        counter.since()
        made.train_step(batch(config, seed=1))
        torch.npu.synchronize()
        counts.append(counter.since())
    plain, replayed = counts
    assert replayed["launches"] < plain["launches"] / 3, counts
    assert replayed["to_host_copies"] == plain["to_host_copies"] == 1
