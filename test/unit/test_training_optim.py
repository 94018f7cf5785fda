"""Parameter groups, learning rates and their schedule, against torch's own scheduler and upstream's table."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from pivotnet.config import OptimConfig, preset
from pivotnet.distributed import Ranks
from pivotnet.errors import PivotNetError
from pivotnet.model.pivotnet import PivotNet
from pivotnet.training.optim import FlatAdamW, MultiStepSchedule, build_optimizer, learning_rates


def test_rates_follow_the_number_of_ranks_of_which_others_need_a_rate():
    for ranks, factor in ((1, 0.5), (2, 0.5), (4, 1.0), (8, 1.0), (16, 1.5), (32, 2.0)):
        assert learning_rates(OptimConfig(), ranks) == pytest.approx((2e-4 * factor, 5e-5 * factor))
    with pytest.raises(PivotNetError, match="6 ranks.*give --lr"):
        learning_rates(OptimConfig(), 6)
    assert learning_rates(OptimConfig(), 6, lr=1e-3) == pytest.approx((1e-3, 2.5e-4))
    assert learning_rates(OptimConfig(), 6, lr=1e-3, backbone_lr=1e-6) == (1e-3, 1e-6)
    assert learning_rates(OptimConfig(scale_lr=False), 6) == (2e-4, 5e-5)


def test_groups_part_by_name_and_keep_the_decay_in_force():
    config = preset("smoke")
    model = PivotNet(config.model, config.map)
    optimizer = build_optimizer(model, config.optim, (1e-3, 1e-4), Ranks())
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-4]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.01]
    network, backbone = optimizer.members
    assert [id(p) for p in backbone] == [id(p) for p in model.im_backbone.parameters()]
    assert len(network) + len(backbone) == len(list(model.parameters()))


def test_joined_parameters_learn_as_adamw():
    """Gradients in their own tensors, in slices of a larger one, and none at all; states go both ways."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((5, 7), (7,), (4,), (3, 2, 4), ())]

    def made(kind: Callable[..., torch.optim.Optimizer]) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
        values = [nn.Parameter(value.clone()) for value in start]
        groups = [
            {"params": values[:3], "lr": 1e-2, "wd": 1e-4},
            {"params": values[3:], "lr": 1e-3, "weight_decay": 0.1},
        ]
        return values, kind(groups, lr=1.0)

    def train(values: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            optimizer.zero_grad()
            joined = torch.cat([value.flatten() for value in (values[0], values[1], values[4])])
            (joined.pow(4).sum() + (values[3] * values[3].transpose(0, 2).flatten()[step]).sum()).backward()
            optimizer.step()

    flat, plain = made(partial(FlatAdamW, ranks=Ranks())), made(torch.optim.AdamW)
    for steps in (range(5), range(5, 9)):
        for values, optimizer in (flat, plain):
            train(values, optimizer, steps)
        for one, two in zip(flat[0], plain[0]):
            torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)
        states = [copy.deepcopy(optimizer.state_dict()) for _, optimizer in (flat, plain)]
        for (_, optimizer), state in zip((flat, plain), reversed(states)):
            state["state"] = {key: {**entry, "step": entry["step"].cpu()} for key, entry in state["state"].items()}
            optimizer.load_state_dict(state)
    assert torch.equal(flat[0][2], start[2])


def test_the_state_of_another_network_is_refused():
    values = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    optimizer = FlatAdamW([{"params": values}], Ranks(), lr=1.0)
    sum(value.sum() for value in values).backward()
    optimizer.step()
    state = optimizer.state_dict()
    with pytest.raises(PivotNetError, match=r"has groups of \[2\] parameters, the network has \[1\]"):
        FlatAdamW([{"params": values[:1]}], Ranks(), lr=1.0).load_state_dict(state)
    state["state"][0]["exp_avg"] = torch.ones(1)
    with pytest.raises(PivotNetError, match="shapes differ"):
        optimizer.load_state_dict(state)


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
