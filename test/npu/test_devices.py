"""A device computes what a CPU computes: an NPU, simulated (conftest.py), and a CUDA device, if there is one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from cannsim import counters
from scene import CPU, NPU, assert_near, batch, losses, needs_graphs, trainer
from support.small import FIELDS, network, small
from torch import Tensor

from pivotnet import checkpoint as checkpoints
from pivotnet import device as devices
from pivotnet.config import BACKBONES
from pivotnet.criterion.criterion import Criterion
from pivotnet.training.loop import Trainer

CARD = torch.device("cuda", 0)
BF16 = torch.bfloat16
needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")


def on(npu: list[Any], cuda: list[Any]) -> list[Any]:
    """The cases of each device, as parameters of a test."""
    simulated = [pytest.param(NPU, *case, id=f"npu-{case[0]}") for case in npu]
    return simulated + [pytest.param(CARD, *case, id=f"cuda-{case[0]}", marks=needs_card) for case in cuda]


def gradients(model: torch.nn.Module) -> Tensor:
    """Those of all parameters as one vector: where a sample falls on a cell's edge, one ulp in its place changes one
    element by much."""
    found = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    assert len(found) > 50
    return torch.cat(found).cpu()


def test_device_py_chooses_the_npu():
    device = devices.select_device()
    assert device == torch.device("npu", 0)
    assert devices.distributed_backend(device) == "hccl"
    assert devices.device_count("npu") == 8
    assert devices.select_device(local_rank=3) == torch.device("npu", 3)
    assert devices.device_name(device) == "Ascend910B1"
    devices.select_device("npu:0")


# effb0's batch norms see few values: two implementations of them on one device differ as much
CARD_CASES = [("swint", 1e-6), ("res50", 1e-6), ("effb0", 3e-6)]


@pytest.mark.parametrize("device, name, near", on([(name, 1e-5) for name in BACKBONES], CARD_CASES))
def test_network_and_criterion_equal_the_cpu(device: torch.device, name: str, near: float):
    devices.set_reduced_precision(False)
    channels = BACKBONES[name].channels
    on_npu = small("smoke", backbone=name, backbone_channels=channels, checkpointing=True)
    config = on_npu if device == NPU else small(name)
    on_cpu = network(config).train()
    on_device = copy.deepcopy(on_cpu).to(device)
    given = batch(config)
    # float images in plain layout: batch norm of the CPU sums another layout in another order
    images = on_cpu.normalise(given.images).contiguous()
    found = []
    for model, place in ((on_device, device), (on_cpu, CPU)):
        moved = given.to(place)
        predictions = model(images.to(place), moved.reference_points, moved.reference_valid)
        loss = Criterion(config)(predictions, moved.targets).total
        loss.backward()
        found.append((predictions, float(loss.detach()), gradients(model)))
    (actual, loss, gradient), (expected, expected_loss, expected_gradient) = found
    assert loss == pytest.approx(expected_loss, rel=near)
    assert float((gradient - expected_gradient).norm() / expected_gradient.norm()) < 1e-3
    if device == NPU:  # its simulated kernels are those of the CPU
        for field in FIELDS:
            assert getattr(actual, field).device.type == "npu"
            assert_near(getattr(actual, field), getattr(expected, field), what=field)
        for (key, buffer), wanted in zip(on_device.named_buffers(), on_cpu.buffers()):
            assert_near(buffer, wanted, what=f"buffer {key}")


@pytest.mark.parametrize("device, name, steps", on([("smoke", 3), ("swint", 1)], [(name, 2) for name in BACKBONES]))
def test_training_steps_equal_the_cpu(device: torch.device, name: str, steps: int, tmp_path: Path):
    made, on_cpu = (trainer(small(name), place, tmp_path) for place in (device, CPU))
    assert made.optimizer.defaults["fused"] == devices.has_fused_adamw(device)
    actual, expected = losses(made, steps), losses(on_cpu, steps)
    assert actual[0] == pytest.approx(expected[0], rel=1e-5)
    assert actual == pytest.approx(expected, rel=1e-2)  # rounding grows from step to step


@pytest.mark.parametrize("device, name", on([("smoke",)], [("swint",)]))
def test_steps_in_bfloat16_stay_near_float32(device: torch.device, name: str, tmp_path: Path):
    config = small(name, checkpointing=True)
    full, mixed = (losses(trainer(config, device, tmp_path, amp=amp), 2) for amp in (None, BF16))
    assert mixed != full  # bfloat16 was really used
    assert mixed == pytest.approx(full, rel=0.1)


@pytest.mark.parametrize("device, name", on([("smoke",)], [("smoke",)]))
def test_checkpoints_go_to_the_cpu_and_back(device: torch.device, name: str, tmp_path: Path):
    config = small(name)

    def handed_over(made: Trainer, place: torch.device) -> Trainer:
        path = tmp_path / f"{made.device.type}.pth"
        checkpoints.save_checkpoint(path, made._state([devices.rng_state(made.device)]))
        state = checkpoints.read_checkpoint(path)
        assert all(tensor.device == CPU for tensor in state["model_state"].values())
        other = trainer(config, place, tmp_path)
        other.restore(state, path)
        return other

    first = trainer(config, device, tmp_path)
    losses(first, 2)
    on_cpu = handed_over(first, CPU)
    again = handed_over(on_cpu, device)
    assert first.step == on_cpu.step == again.step == 2
    found = []
    for made in (first, again, on_cpu):
        made._pending = None
        made.train_step(batch(config, seed=2))
        found.append(float(made._pending[1]))
    assert found == pytest.approx([found[0]] * 3, rel=1e-5)
    near = 0 if device == NPU else 1e-3  # a card adds gradients up in any order
    for key, value in first.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[key], value, rtol=0, atol=near, msg=key)


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
@pytest.mark.parametrize(
    "device, name, amp, near", on([("smoke", BF16, 0)], [("swint", None, 1e-6), ("swint", BF16, 1e-6)])
)
def test_graphs_in_bfloat16_and_on_a_card(device: torch.device, name: str, amp: Any, near: float, tmp_path: Path):
    """The first step; gradients are added in any order, and casts are not kept within a graph."""
    made = (trainer(small(name), device, tmp_path, amp=amp, graph=graph) for graph in (False, True))
    plain, replayed = (losses(one, 2) for one in made)
    assert replayed[0] == pytest.approx(plain[0], rel=near, abs=0)
    assert replayed[1] == pytest.approx(plain[1], rel=1e-2)


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
