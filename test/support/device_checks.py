"""What every device is asked: to compute what a CPU computes. test/npu asks simulated NPUs, test/card a GPU."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pivotnet import checkpoint as checkpoints
from pivotnet import device as devices
from pivotnet.config import BACKBONES
from pivotnet.criterion.criterion import Criterion
from pivotnet.training.loop import Trainer
from support.scene import CPU, assert_near, batch, losses, trainer
from support.small import FIELDS, network, small

BF16 = torch.bfloat16


def gradients(model: torch.nn.Module) -> Tensor:
    """Those of all parameters as one vector: where a sample falls on a cell's edge, one ulp in its place changes one
    element by much."""
    found = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    assert len(found) > 50
    return torch.cat(found).cpu()


def network_and_criterion_equal_the_cpu(device: torch.device, folder: Path, name: str, near: float) -> None:
    devices.set_reduced_precision(False)
    channels = BACKBONES[name].channels
    simulated = device.type == "npu"  # its kernels are those of the CPU, and take as long
    on_npu = small("smoke", backbone=name, backbone_channels=channels, checkpointing=True)
    config = on_npu if simulated else small(name)
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
    if simulated:
        for field in FIELDS:
            assert getattr(actual, field).device.type == "npu"
            assert_near(getattr(actual, field), getattr(expected, field), what=field)
        for (key, buffer), wanted in zip(on_device.named_buffers(), on_cpu.buffers()):
            assert_near(buffer, wanted, what=f"buffer {key}")


def training_steps_equal_the_cpu(device: torch.device, folder: Path, name: str, steps: int) -> None:
    made, on_cpu = (trainer(small(name), place, folder) for place in (device, CPU))
    assert made.optimizer.defaults["fused"] == devices.has_fused_adamw(device)
    actual, expected = losses(made, steps), losses(on_cpu, steps)
    assert actual[0] == pytest.approx(expected[0], rel=1e-5)
    assert actual == pytest.approx(expected, rel=1e-2)  # rounding grows from step to step


def steps_in_bfloat16_stay_near_float32(device: torch.device, folder: Path, name: str) -> None:
    config = small(name, checkpointing=True)
    full, mixed = (losses(trainer(config, device, folder, amp=amp), 2) for amp in (None, BF16))
    assert mixed != full  # bfloat16 was really used
    assert mixed == pytest.approx(full, rel=0.1)


def checkpoints_go_to_the_cpu_and_back(device: torch.device, folder: Path, name: str) -> None:
    config = small(name)

    def handed_over(made: Trainer, place: torch.device) -> Trainer:
        path = folder / f"{made.device.type}.pth"
        checkpoints.save_checkpoint(path, made._state([devices.rng_state(made.device)]))
        state = checkpoints.read_checkpoint(path)
        assert all(tensor.device == CPU for tensor in state["model_state"].values())
        other = trainer(config, place, folder)
        other.restore(state, path)
        return other

    first = trainer(config, device, folder)
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
    near = 0 if device.type == "npu" else 1e-3  # a card adds gradients up in any order
    for key, value in first.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[key], value, rtol=0, atol=near, msg=key)


def graphs_equal_ordinary_steps(device: torch.device, folder: Path, name: str, amp: Any, near: float) -> None:
    """The first step; gradients are added in any order, and casts are not kept within a graph."""
    made = (trainer(small(name), device, folder, amp=amp, graph=graph) for graph in (False, True))
    plain, replayed = (losses(one, 2) for one in made)
    assert replayed[0] == pytest.approx(plain[0], rel=near, abs=0)
    assert replayed[1] == pytest.approx(plain[1], rel=1e-2)
