"""AdamW over vectors that hold many parameters each; parameter groups, rates and their schedule, as upstream's. Joined
parameters need a few launches a step, and one exchange between ranks a vector."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from pivotnet import device as devices
from pivotnet.config import OptimConfig
from pivotnet.distributed import Ranks, average_over_ranks
from pivotnet.errors import PivotNetError

BACKBONE = "backbone"  # parameters whose name contains this learn at the backbone's rate
LR_FACTORS = {1: 0.5, 2: 0.5, 4: 1.0, 8: 1.0, 16: 1.5, 32: 2.0}  # ranks -> factor; batch > 1 a card changes nothing
AVERAGES = ("exp_avg", "exp_avg_sq")
# Options of a group that a checkpoint has; the others choose the kernel, which is this machine's.
SAVED = ("lr", "betas", "eps", "weight_decay")


def learning_rates(
    optim: OptimConfig, world_size: int, lr: float | None = None, backbone_lr: float | None = None
) -> tuple[float, float]:
    """Rates of the network and of its backbone. ``lr`` overrides the network's rate, unscaled, and the backbone's keeps
    its ratio to it; ``backbone_lr`` overrides the backbone's. PivotNetError where upstream has no factor for this
    number of ranks, and ``lr`` is not given."""
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
    """rate(step) = base * gamma ** (number of milestones <= step). Milestones are whole epochs, truncated: int(.7 E)
    and int(.9 E). A run of one epoch therefore has both at step 0 and learns at gamma squared from the start;
    upstream's one-epoch runs do the same."""

    def __init__(self, optim: OptimConfig, base_rates: tuple[float, ...], steps_per_epoch: int) -> None:
        self.base_rates = base_rates
        self.gamma = optim.gamma
        self.milestones = sorted(int(share * optim.epochs) * steps_per_epoch for share in optim.milestones)

    def apply(self, optimizer: Optimizer, step: int) -> None:
        """Set the rate of each parameter group for a step (counted from 0)."""
        factor = self.gamma ** bisect_right(self.milestones, step)
        for group, rate in zip(optimizer.param_groups, self.base_rates):
            group["lr"] = rate * factor


class FlatAdamW(torch.optim.AdamW):
    """torch.optim.AdamW, with its options, over the parameters of each group laid side by side, which become views of
    one vector. They are float32, on their device; rank 0's become everybody's. Autograd may put a gradient anywhere,
    without a launch; ``step`` joins them and averages them over ``ranks``, unless something else has done so. A
    parameter that never gets a gradient stays as it is. State dicts are those of AdamW over the parameters."""

    def __init__(self, groups: list[dict[str, Any]], ranks: Ranks, **options: Any) -> None:
        self.members: list[list[Tensor]] = [list(group["params"]) for group in groups]  # of each group
        self._ranks = ranks
        vectors = [torch.cat([member.detach().flatten() for member in members]) for members in self.members]
        for vector, members in zip(vectors, self.members):
            if ranks.world_size > 1:
                dist.broadcast(vector, 0)
            for member, part in zip(members, _split(vector, members)):
                member.data = part
        joined = [{**group, "params": [vector]} for group, vector in zip(groups, vectors)]
        super().__init__(joined, fused=devices.has_fused_adamw(vectors[0].device) or None, **options)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, whatever ``set_to_none`` is."""
        for members in self.members:
            for member in members:
                member.grad = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of all parameters; ``closure`` is not called."""
        kept = []
        for group, members in zip(self.param_groups, self.members):
            kept += [(member, member.clone()) for member in members if member.grad is None]
            gradients = [torch.zeros_like(member) if member.grad is None else member.grad for member in members]
            joined = torch.cat([gradient.flatten() for gradient in gradients])
            group["params"][0].grad = average_over_ranks(joined, self._ranks)
        super().step()
        super().zero_grad()
        for member, before in kept:
            member.copy_(before)

    def state_dict(self) -> dict[str, Any]:
        """The state as AdamW would have it over the parameters; its tensors are views of the vectors' state."""
        flat = super().state_dict()
        state: dict[int, dict[str, Tensor]] = {}
        groups = []
        first = 0
        for index, (group, members) in enumerate(zip(flat["param_groups"], self.members)):
            names = range(first, first + len(members))
            first += len(members)
            groups.append({**group, "params": list(names)})
            entry = flat["state"].get(index, {})
            parts = {  # each parameter has a step count of its own, as AdamW adds to each
                key: _split(value, members) if value.ndim else [value.clone() for _ in members]
                for key, value in entry.items()
            }
            state.update({name: dict(zip(parts, values)) for name, values in zip(names, zip(*parts.values()))})
        return {**flat, "state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of AdamW over the same parameters; each group has one step count, the largest. Raises
        PivotNetError: it is of other parameters."""
        sizes = [len(group["params"]) for group in state_dict["param_groups"]]
        own = [len(members) for members in self.members]
        if sizes != own:
            what = f"the optimiser's state has groups of {sizes} parameters, the network has {own}"
            raise PivotNetError(f"{what}: take a checkpoint of this network")
        state: dict[int, dict[str, Tensor]] = {}
        groups = []
        for index, saved in enumerate(state_dict["param_groups"]):
            group, members = self.param_groups[index], self.members[index]
            groups.append({**group, **{key: saved[key] for key in SAVED if key in saved}, "params": [index]})
            entries = [state_dict["state"].get(name) for name in saved["params"]]
            steps = {float(entry["step"]) for entry in entries if entry}
            if not steps:
                continue
            state[index] = {"step": torch.tensor(max(steps))}
            for key in AVERAGES:
                # AdamW has no state of a parameter that never had a gradient
                averages = [entry[key] if entry else torch.zeros_like(one) for entry, one in zip(entries, members)]
                if [average.shape for average in averages] != [one.shape for one in members]:
                    raise PivotNetError("the optimiser's state has other shapes: take a checkpoint of this network")
                state[index][key] = torch.cat([average.flatten().to(members[0].device) for average in averages])
        super().load_state_dict({"state": state, "param_groups": groups})


def _split(vector: Tensor, members: list[Tensor]) -> list[Tensor]:
    """Views of a vector in the shapes of ``members``, one after the other."""
    parts = vector.split([member.numel() for member in members])
    return [part.view(member.shape) for part, member in zip(parts, members)]
