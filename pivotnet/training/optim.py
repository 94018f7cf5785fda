"""Parameter groups, learning rates and their schedule, as upstream sets them."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from torch import nn
from torch.optim import Optimizer

from pivotnet.config import OptimConfig
from pivotnet.distributed import Ranks
from pivotnet.errors import PivotNetError
from pivotnet.training.flat_adamw import FlatAdamW

BACKBONE = "backbone"  # parameters whose name contains this learn at the backbone's rate
LR_FACTORS = {1: 0.5, 2: 0.5, 4: 1.0, 8: 1.0, 16: 1.5, 32: 2.0}  # ranks -> factor; batch > 1 a card changes nothing


def learning_rates(
    optim: OptimConfig, world_size: int, lr: float | None = None, backbone_lr: float | None = None
) -> tuple[float, float]:
    """Rates of the network and of its backbone.

    ``lr`` overrides the network's rate, unscaled, and the backbone's keeps its ratio to it; ``backbone_lr`` overrides
    the backbone's. PivotNetError where upstream has no factor for this number of ranks, and ``lr`` is not given.
    """
    if lr is not None:
        rates = lr, lr * optim.backbone_lr / optim.lr
    else:
        if optim.scale_lr and world_size not in LR_FACTORS:
            known = ", ".join(map(str, LR_FACTORS))
            raise PivotNetError(f"no learning rate is known for {world_size} ranks (only for {known}): give --lr")
        factor = LR_FACTORS[world_size] if optim.scale_lr else 1.0
        rates = optim.lr * factor, optim.backbone_lr * factor
    return rates if backbone_lr is None else (rates[0], backbone_lr)


def build_optimizer(model: nn.Module, optim: OptimConfig, rates: tuple[float, float], ranks: Ranks) -> FlatAdamW:
    """AdamW over two groups: the network's parameters, then the backbone's, each in the order of the module tree."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [parameter for name, parameter in trained if (BACKBONE in name) == backbone], "lr": lr}
        for backbone, lr in zip((False, True), rates)
    ]
    return FlatAdamW(groups, ranks, lr=rates[0], weight_decay=optim.weight_decay)


class MultiStepSchedule:
    """rate(step) = base * gamma ** (number of milestones <= step).

    Milestones are whole epochs, truncated: int(.7 E) and int(.9 E). A run of one epoch therefore has both at step 0 and
    learns at gamma squared from the start; upstream's one-epoch runs do the same.
    """

    def __init__(self, optim: OptimConfig, base_rates: tuple[float, ...], steps_per_epoch: int) -> None:
        self.base_rates = base_rates
        self.gamma = optim.gamma
        self.milestones = sorted(int(share * optim.epochs) * steps_per_epoch for share in optim.milestones)

    def apply(self, optimizer: Optimizer, step: int) -> None:
        """Set the rate of each parameter group for a step (counted from 0)."""
        factor = self.gamma ** bisect_right(self.milestones, step)
        for group, rate in zip(optimizer.param_groups, self.base_rates):
            group["lr"] = rate * factor
