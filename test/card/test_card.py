"""A CUDA device against the CPU: the kernels, training steps, graphs, bfloat16 and checkpoints. Skipped without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scene import CPU, batch, losses, network, small, trainer
from torch import Tensor

from pivotnet import checkpoint as checkpoints
from pivotnet import device as devices
from pivotnet.criterion.criterion import Criterion
from pivotnet.model.ops import deformable_attention
from pivotnet.model.ops.deformable_attention import multi_scale_deformable_attention, sample_levels
from pivotnet.training.loop import Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
CARD = torch.device("cuda", 0)


def difference(actual: Tensor, expected: Tensor) -> float:
    """Of the norms, relative: where a sample falls on a cell's edge, one ulp in its place changes one gradient much."""
    actual, expected = (x.detach().cpu().double() for x in (actual, expected))
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 2e-5), (torch.bfloat16, 1e-2)])
def test_triton_equals_grid_sample_and_keeps_its_inputs_only(dtype: torch.dtype, near: float):
    """At the size of the presets: 6 cameras beside each other, 64 x 32 queries."""
    assert deformable_attention._triton_works()
    devices.set_reduced_precision(False)
    shapes, samples = ((32, 336), (16, 168)), (2, 2048, 8, 2, 8)
    generator = torch.Generator(CARD).manual_seed(0)
    value = torch.randn(2, sum(h * w for h, w in shapes), 8, 32, device=CARD, generator=generator).to(dtype)
    locations = torch.rand(*samples, 2, device=CARD, generator=generator) * 1.4 - 0.2
    weights = torch.rand(samples, device=CARD, generator=generator)
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    before = torch.cuda.memory_allocated()
    output = multi_scale_deformable_attention(value, shapes, locations, weights)
    assert torch.cuda.memory_allocated() - before <= output.nbytes + 2**16
    expected = sample_levels(value.float(), shapes, locations, weights)
    assert difference(output, expected) < 2e-5
    outer = torch.randn(output.shape, device=CARD, generator=generator)
    found, judged = (torch.autograd.grad(result, leaves, outer) for result in (output, expected))
    assert difference(found[0], judged[0]) < near
    assert difference(found[1], judged[1]) < 1e-2  # a few of a million places lie on edges of cells
    assert difference(found[2], judged[2]) < 2e-5


# effb0's batch norms see few values: two implementations of them on one device differ as much
@pytest.mark.parametrize(("name", "near"), [("swint", 1e-6), ("res50", 1e-6), ("effb0", 3e-6)])
def test_network_and_criterion_equal_the_cpu(name: str, near: float):
    devices.set_reduced_precision(False)
    config = small(name)
    given, found = batch(config), []
    for device in (CARD, CPU):
        model, moved = network(config).train().to(device), given.to(device)
        # float images in plain layout: batch norm of the CPU sums another layout in another order
        images = model.normalise(moved.images).contiguous()
        predictions = model(images, moved.reference_points, moved.reference_valid)
        loss = Criterion(config).to(device)(predictions, moved.targets).total
        loss.backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        found.append((float(loss.detach()), torch.cat([gradient.flatten() for gradient in gradients])))
    (loss, gradient), (expected_loss, expected_gradient) = found
    assert loss == pytest.approx(expected_loss, rel=near)
    assert difference(gradient, expected_gradient) < 1e-3


@pytest.mark.parametrize("name", ["swint", "res50", "effb0"])
def test_training_steps_equal_the_cpu(name: str, tmp_path: Path):
    actual, expected = (losses(trainer(small(name), device, tmp_path), 2) for device in (CARD, CPU))
    assert actual[0] == pytest.approx(expected[0], rel=1e-5)
    assert actual == pytest.approx(expected, rel=1e-2)  # rounding grows from step to step


@pytest.mark.parametrize("amp", [None, torch.bfloat16])
def test_graphs_equal_ordinary_steps(amp: torch.dtype | None, tmp_path: Path):
    """The first step; gradients are added in any order, and casts are not kept within a graph."""
    config = small("swint")
    plain, replayed = (losses(trainer(config, CARD, tmp_path, amp=amp, graph=graph), 2) for graph in (False, True))
    assert replayed[0] == pytest.approx(plain[0], rel=1e-6)
    assert replayed[1] == pytest.approx(plain[1], rel=1e-2)


def test_steps_in_bfloat16_stay_near_float32(tmp_path: Path):
    config = small("swint")
    full, mixed = (losses(trainer(config, CARD, tmp_path, amp=amp), 2) for amp in (None, torch.bfloat16))
    assert mixed != full  # bfloat16 was really used
    assert mixed == pytest.approx(full, rel=0.1)


def test_checkpoints_go_from_card_to_cpu_and_back(tmp_path: Path):
    config = small("smoke")

    def handed_over(made: Trainer, device: torch.device) -> Trainer:
        path = tmp_path / f"{made.device.type}.pth"
        checkpoints.save_checkpoint(path, made._state([devices.rng_state(made.device)]))
        other = trainer(config, device, tmp_path)
        other.restore(checkpoints.read_checkpoint(path), path)
        return other

    first = trainer(config, CARD, tmp_path)
    losses(first, 2)
    on_cpu = handed_over(first, CPU)
    again = handed_over(on_cpu, CARD)
    assert first.step == on_cpu.step == again.step == 2
    for key, value in first.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[key], value), key
    found = [made.forward_backward(batch(config, seed=2)).total.detach() for made in (first, on_cpu, again)]
    assert [float(loss) for loss in found] == pytest.approx([float(found[0])] * 3, rel=1e-5)
