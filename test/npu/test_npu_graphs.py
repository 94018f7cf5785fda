"""Training with captured graphs on a simulated NPU: the same numbers as without, and a launch for each pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cannsim.counters import Counters
from scene import NPU, batch, losses, needs_graphs, trainer
from support.small import small

STEPS = 2

pytestmark = needs_graphs


@pytest.mark.parametrize("name, drop", [("smoke", 0.0), ("smoke", 0.2), ("swint", 0.0)])
def test_replayed_steps_equal_ordinary_steps(name: str, drop: float, tmp_path: Path):
    config = small(name, dropout=drop, drop_connect=drop)
    plain, replayed = trainer(config, NPU, tmp_path), trainer(config, NPU, tmp_path, graph=True)
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
    amp = torch.bfloat16
    plain, replayed = (losses(trainer(config, NPU, tmp_path, amp=amp, graph=graph), 2) for graph in (False, True))
    assert replayed[0] == plain[0]
    assert replayed[1] == pytest.approx(plain[1], rel=1e-2)


def test_a_pass_is_one_launch(tmp_path: Path):
    config = small("smoke")
    counter = Counters()
    counts = []
    for made in (trainer(config, NPU, tmp_path), trainer(config, NPU, tmp_path, graph=True)):
        losses(made, 1)
        torch.npu.synchronize()
        counter.since()
        made.train_step(batch(config, seed=1))
        torch.npu.synchronize()
        counts.append(counter.since())
    plain, replayed = counts
    assert replayed["calls"] < plain["calls"] / 3, counts
    assert replayed["to_host_copies"] == plain["to_host_copies"] == 1
