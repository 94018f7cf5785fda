"""Training on a simulated NPU: steps, the fused optimiser, checkpoints, evaluation, several ranks over HCCL."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scene import CPU, NPU, assert_near, batch, losses, small, trainer

from pivotnet import checkpoint as checkpoints
from pivotnet import device as devices


@pytest.mark.parametrize("name, steps", [("smoke", 3), ("swint", 1)])
def test_training_steps_equal_the_cpu(name: str, steps: int, tmp_path: Path):
    config = small(name)
    on_npu, on_cpu = trainer(config, NPU, tmp_path), trainer(config, CPU, tmp_path)
    before = copy.deepcopy(on_npu.model.state_dict())
    assert type(on_npu.optimizer).__name__ == "NpuFusedAdamW"
    actual, expected = losses(on_npu, steps), losses(on_cpu, steps)
    assert all(math.isfinite(loss) for loss in actual)
    assert actual[0] == pytest.approx(expected[0], rel=1e-5)
    assert actual == pytest.approx(expected, rel=1e-2)  # rounding grows from step to step
    moved = sum(bool((tensor != before[key]).any()) for key, tensor in on_npu.model.state_dict().items())
    assert moved > 0.9 * len(before)


def test_a_training_step_runs_with_dropout_and_in_bfloat16(tmp_path: Path):
    config = small("smoke", dropout=0.1, drop_connect=0.2, checkpointing=True)
    assert all(math.isfinite(loss) for loss in losses(trainer(config, NPU, tmp_path, amp=torch.bfloat16), 2))


def test_fused_adamw_equals_adamw_over_ten_steps():
    generator = torch.Generator().manual_seed(0)
    shapes = ((5, 7), (7,), (3, 2, 4))
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    plain = [value.clone().requires_grad_() for value in start]
    fused = [value.to(NPU).requires_grad_() for value in start]

    def groups(values: list[torch.Tensor]) -> list[dict[str, Any]]:
        return [{"params": values[:2], "lr": 1e-2}, {"params": values[2:], "lr": 1e-3}]

    one = torch.optim.AdamW(groups(plain), weight_decay=0.01)
    other = devices.fused_adamw(groups(fused), NPU, weight_decay=0.01)
    for step in range(10):
        for values, optimizer in ((plain, one), (fused, other)):
            optimizer.zero_grad()
            for value in values:
                value_gradient = torch.randn(value.shape, generator=torch.Generator().manual_seed(step))
                if value.grad is None:
                    (value * value_gradient.to(value.device)).sum().backward()
                else:
                    value.grad.copy_(value_gradient)
            optimizer.step()
        for index, (actual, expected) in enumerate(zip(fused, plain)):
            assert_near(actual, expected, 1e-6, f"parameter {index} after step {step}")


def test_fused_adamw_takes_gradients_that_are_parts_of_others():
    """The gradients of tensors joined by cat are slices of one storage, whose size says nothing of theirs."""
    start = [torch.randn(4, 3), torch.randn(2, 3)]

    def step(values: list[torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        (torch.cat(values) * torch.arange(18.0, device=values[0].device).view(6, 3)).square().sum().backward()
        optimizer.step()

    plain = [value.clone().requires_grad_() for value in start]
    fused = [value.to(NPU).requires_grad_() for value in start]
    one = torch.optim.AdamW(plain, lr=1e-2)
    other = devices.fused_adamw([{"params": fused}], NPU, lr=1e-2)
    for _ in range(2):
        step(plain, one)
        step(fused, other)
    for actual, expected in zip(fused, plain):
        assert_near(actual, expected, 1e-6, "parameter")


def test_checkpoints_go_from_npu_to_cpu_and_back(tmp_path: Path):
    config = small("smoke")
    first = trainer(config, NPU, tmp_path)
    losses(first, 2)
    path = tmp_path / "step.pth"
    checkpoints.save_checkpoint(path, first._state([devices.rng_state(NPU)]))
    state = checkpoints.read_checkpoint(path)
    assert all(tensor.device.type == "cpu" for tensor in state["model_state"].values())

    on_cpu, again = trainer(config, CPU, tmp_path), trainer(config, NPU, tmp_path)
    on_cpu.restore(state, path)
    assert on_cpu.step == 2
    checkpoints.save_checkpoint(tmp_path / "cpu.pth", on_cpu._state([devices.rng_state(CPU)]))
    again.restore(checkpoints.read_checkpoint(tmp_path / "cpu.pth"), path)
    for key, value in first.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[key].cpu(), value.cpu()), key
    given = batch(config, seed=2)
    for made in (first, again, on_cpu):
        made._pending = None
        made.train_step(given)
    for (key, expected), actual in zip(first.model.named_parameters(), again.model.parameters()):
        assert torch.equal(actual.cpu(), expected.cpu()), f"{key} after a step from the reloaded checkpoint"
