"""A simulated NPU (conftest.py) computes what a CPU computes, and replays graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cannsim import counters
from support import device_checks as checks
from support.scene import NPU, batch, losses, needs_graphs, trainer
from support.small import small

from pivotnet import device as devices
from pivotnet.config import BACKBONES


def test_device_py_chooses_the_npu():
    device = devices.select_device()
    assert device == torch.device("npu", 0)
    assert devices.distributed_backend(device) == "hccl"
    assert devices.device_count("npu") == 8
    assert devices.select_device(local_rank=3) == torch.device("npu", 3)
    assert devices.device_name(device) == "Ascend910B1"
    devices.select_device("npu:0")


CHECKS = [
    *((checks.network_and_criterion_equal_the_cpu, name, 1e-5) for name in BACKBONES),
    *((checks.training_steps_equal_the_cpu, name, steps) for name, steps in (("smoke", 3), ("swint", 1))),
    (checks.steps_in_bfloat16_stay_near_float32, "smoke"),
    (checks.checkpoints_go_to_the_cpu_and_back, "smoke"),
    pytest.param((checks.graphs_equal_ordinary_steps, "smoke", checks.BF16, 0), marks=needs_graphs),
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check[0].__name__)
def test_an_npu(check: tuple[Any, ...], tmp_path: Path):
    check[0](NPU, tmp_path, *check[1:])


@needs_graphs
@pytest.mark.parametrize("name, drop", [("smoke", 0.0), ("smoke", 0.2), ("swint", 0.0)])
def test_replayed_steps_equal_ordinary_steps(name: str, drop: float, tmp_path: Path):
    config = small(name, dropout=drop, drop_connect=drop)
    plain, replayed = trainer(config, NPU, tmp_path), trainer(config, NPU, tmp_path, graph=True)
    found = []
    for made in (plain, replayed):
        torch.manual_seed(1)
        found.append(losses(made, 2))
    assert found[0] == found[1]
    expected = plain.model.state_dict()
    for key, tensor in replayed.model.state_dict().items():
        assert torch.equal(tensor.cpu(), expected[key].cpu()), key


@needs_graphs
def test_a_pass_is_one_launch(tmp_path: Path):
    config = small("smoke")
    counter = counters.Counters()
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
