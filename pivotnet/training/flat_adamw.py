"""AdamW over vectors that hold many parameters each: a few launches a step, and one exchange between ranks a vector."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pivotnet import device as devices
from pivotnet.distributed import Ranks, average_over_ranks
from pivotnet.errors import PivotNetError

AVERAGES = ("exp_avg", "exp_avg_sq")
# Options of a group that a checkpoint has; the others choose the kernel, which is this machine's.
SAVED = ("lr", "betas", "eps", "weight_decay")


class FlatAdamW(torch.optim.AdamW):
    """torch.optim.AdamW over the parameters of each group laid side by side, which become views of one vector.

    Autograd may put a gradient anywhere, without a launch; ``step`` joins them and averages them over the ranks. A
    parameter that never gets a gradient stays as it is. State dicts are those of AdamW over the parameters.

    Args:
        groups: as of torch.optim.AdamW, with float32 parameters on their device. Rank 0's become everybody's.
        ranks: among which gradients are averaged; not where something else has done so.
        options: of torch.optim.AdamW.
    """

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
        """Take the state of AdamW over the same parameters; each group has one step count, the largest.

        Raises:
            PivotNetError: it is of other parameters.
        """
        sizes = [len(group["params"]) for group in state_dict["param_groups"]]
        own = [len(members) for members in self.members]
        if sizes != own:
            raise PivotNetError(f"the optimiser's state has groups of {sizes} parameters, the network has {own}")
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
                    raise PivotNetError("the optimiser's state is of another network: shapes differ")
                state[index][key] = torch.cat([average.flatten().to(members[0].device) for average in averages])
        super().load_state_dict({"state": state, "param_groups": groups})


def _split(vector: Tensor, members: list[Tensor]) -> list[Tensor]:
    """Views of a vector in the shapes of ``members``, one after the other."""
    parts = vector.split([member.numel() for member in members])
    return [part.view(member.shape) for part, member in zip(parts, members)]
