"""Parameter groups, learning rates and their schedule, against torch's own scheduler and upstream's table."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pivotnet.config import OptimConfig, preset
from pivotnet.errors import PivotNetError
from pivotnet.model.pivotnet import PivotNet
from pivotnet.training.optim import MultiStepSchedule, build_optimizer, learning_rates


@pytest.mark.parametrize("ranks, factor", [(1, 0.5), (2, 0.5), (4, 1.0), (8, 1.0), (16, 1.5), (32, 2.0)])
def test_rates_follow_the_number_of_ranks(ranks, factor):
    assert learning_rates(OptimConfig(), ranks) == pytest.approx((2e-4 * factor, 5e-5 * factor))


def test_other_numbers_of_ranks_need_a_rate():
    with pytest.raises(PivotNetError, match="6 ranks.*give --lr"):
        learning_rates(OptimConfig(), 6)
    assert learning_rates(OptimConfig(), 6, lr=1e-3) == pytest.approx((1e-3, 2.5e-4))
    assert learning_rates(OptimConfig(), 6, lr=1e-3, backbone_lr=1e-6) == (1e-3, 1e-6)
    assert learning_rates(OptimConfig(scale_lr=False), 6) == (2e-4, 5e-5)


def test_groups_part_by_name_and_keep_the_decay_in_force():
    config = preset("smoke")
    model = PivotNet(config.model, config.map)
    network, backbone = build_optimizer(model, config.optim, (1e-3, 1e-4), torch.device("cpu")).param_groups
    assert (network["lr"], backbone["lr"]) == (1e-3, 1e-4)
    assert network["weight_decay"] == backbone["weight_decay"] == 0.01
    assert [id(p) for p in backbone["params"]] == [id(p) for p in model.im_backbone.parameters()]
    assert len(network["params"]) + len(backbone["params"]) == len(list(model.parameters()))


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("epochs", [1, 2, 10, 30, 110])
def test_schedule_equals_torch(epochs):
    steps_per_epoch = 3
    ours, theirs = (
        torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.25)]) for _ in range(2)
    )
    milestones = [int(share * epochs) * steps_per_epoch for share in (0.7, 0.9)]
    scheduler = torch.optim.lr_scheduler.MultiStepLR(theirs, milestones, gamma=0.2)
    schedule = MultiStepSchedule(OptimConfig(epochs=epochs), (1.0, 0.25), steps_per_epoch)
    for step in range(epochs * steps_per_epoch):
        scheduler.step(step)  # upstream sets the rate of a step before the step, by its number
        schedule.apply(ours, step)
        expected = [group["lr"] for group in theirs.param_groups]
        assert [group["lr"] for group in ours.param_groups] == pytest.approx(expected)
    if epochs == 1:
        assert expected == pytest.approx([0.04, 0.01])  # both milestones lie at its first step
