"""Training on a simulated NPU: steps, the fused optimiser, checkpoints, evaluation, several ranks over HCCL."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from scene import CPU, NPU, batch, losses, small, trainer

from pivotnet import checkpoint as checkpoints
from pivotnet import device as devices


@pytest.mark.parametrize("name, steps", [("smoke", 3), ("swint", 1)])
def test_training_steps_equal_the_cpu(name: str, steps: int, tmp_path: Path):
    config = small(name)
    on_npu, on_cpu = trainer(config, NPU, tmp_path), trainer(config, CPU, tmp_path)
    before = copy.deepcopy(on_npu.model.state_dict())
    assert on_npu.optimizer.defaults["fused"] == devices.has_fused_adamw(NPU)
    actual, expected = losses(on_npu, steps), losses(on_cpu, steps)
    assert all(math.isfinite(loss) for loss in actual)
    assert actual[0] == pytest.approx(expected[0], rel=1e-5)
    assert actual == pytest.approx(expected, rel=1e-2)  # rounding grows from step to step
    moved = sum(bool((tensor != before[key]).any()) for key, tensor in on_npu.model.state_dict().items())
    assert moved > 0.9 * len(before)


def test_steps_in_bfloat16_stay_near_float32(tmp_path: Path):
    config = small("smoke", checkpointing=True)
    full, mixed = (losses(trainer(config, NPU, tmp_path, amp=amp), 2) for amp in (None, torch.bfloat16))
    assert mixed != full  # bfloat16 was really used
    assert mixed == pytest.approx(full, rel=0.1)


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
