"""Where the phases of a training step begin."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

# The phases of our network: each begins with the forward pass of a module, and lasts until the next begins.
NETWORK_PHASES = {
    "im_backbone": "backbone forward",
    "bev_decoder.bev_encoder": "BEV forward",
    "ins_decoder.bev_decoder": "line decoder forward",
    "output_head": "point head forward",
}


def announce_phases(
    network: nn.Module,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    enter: Callable[[str], None],
    network_phases: Mapping[str, str] = NETWORK_PHASES,
) -> None:
    """From now on, call ``enter`` with the name of each phase when it begins.

    A step has an input phase before the first of these, which the caller enters.

    Args:
        network_phases: names by the path of the module that begins them.
    """

    def entering(phase: str) -> Callable[..., None]:
        return lambda *_: enter(phase)

    for path, phase in network_phases.items():
        network.get_submodule(path).register_forward_pre_hook(entering(phase))
    criterion.register_forward_pre_hook(entering("criterion"))
    criterion.register_forward_hook(entering("backward"))
    optimizer.register_step_pre_hook(entering("optimiser"))
    optimizer.register_step_post_hook(entering("loss report"))
