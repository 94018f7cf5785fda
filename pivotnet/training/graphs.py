"""The network's forward and backward pass as captured graphs: one launch each.

Matching needs the host in between, so the criterion and the optimiser stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor, nn

from pivotnet import device as devices
from pivotnet.structures import Predictions

FIELDS = tuple(field.name for field in fields(Predictions) if field.name != "extras")


def graphed_network(model: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[..., Predictions]:
    """What stands in for a network in training, for batches of one size; the next call overwrites its predictions.

    Args:
        model: on its device, in training mode, without checkpointing.
        inputs: images, reference points and validity of a batch.
    """
    device = inputs[0].device
    buffers = [buffer.clone() for buffer in model.buffers()]
    random = devices.rng_state(device)
    replay = devices.capture(_TupleOutput(model), tuple(tensor.clone() for tensor in inputs))
    # Trial runs before the capture have drawn random numbers and moved the batch norms' statistics.
    devices.set_rng_state(device, random)
    with torch.no_grad():
        for buffer, before in zip(model.buffers(), buffers):
            buffer.copy_(before)
    return lambda *inputs: Predictions(**dict(zip(FIELDS, replay(*inputs))))


class _TupleOutput(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        predictions = self.model(*inputs)
        return tuple(getattr(predictions, name) for name in FIELDS)
