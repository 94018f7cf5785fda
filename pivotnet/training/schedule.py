"""The learning rate as a function of the step."""

from __future__ import annotations

from bisect import bisect_right

import torch

from pivotnet.config import OptimConfig


class MultiStepSchedule:
    """rate(step) = base * gamma ** (number of milestones <= step).

    Milestones are whole epochs, truncated: int(.7 E) and int(.9 E). A run of one epoch therefore has both at step 0 and
    learns at gamma squared from the start; upstream's one-epoch runs do the same.
    """

    def __init__(self, optim: OptimConfig, base_rates: tuple[float, ...], steps_per_epoch: int) -> None:
        self.base_rates = base_rates
        self.gamma = optim.gamma
        self.milestones = sorted(int(share * optim.epochs) * steps_per_epoch for share in optim.milestones)

    def rates(self, step: int) -> list[float]:
        """The rate of each parameter group at a step (counted from 0)."""
        factor = self.gamma ** bisect_right(self.milestones, step)
        return [rate * factor for rate in self.base_rates]

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Set the rates of that step; returns the first group's."""
        rates = self.rates(step)
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate
        return rates[0]
