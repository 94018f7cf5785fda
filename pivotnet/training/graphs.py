"""The network's forward and backward pass as captured graphs: one launch each.

Matching needs the host in between, so the criterion and the optimiser stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from pivotnet import device as devices
from pivotnet.structures import Predictions

FIELDS = tuple(field.name for field in fields(Predictions) if field.name != "extras")


class GraphedNetwork:
    """Stands in for a network that is being trained, for batches of one size; results are the network's.

    Args:
        model: on its device, in training mode, without checkpointing.
        inputs: images, reference points and validity of a batch.
    """

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        device = inputs[0].device
        buffers = [buffer.clone() for buffer in model.buffers()]
        random = devices.rng_state(device)
        self.replay: Callable[..., tuple[Tensor, ...]] = devices.capture(
            _TupleOutput(model), tuple(tensor.clone() for tensor in inputs)
        )
        # Trial runs before the capture have drawn random numbers and moved the batch norms' statistics.
        devices.set_rng_state(device, random)
        with torch.no_grad():
            for buffer, before in zip(model.buffers(), buffers):
                buffer.copy_(before)

    def __call__(self, *inputs: Tensor) -> Predictions:
        """Predictions whose memory the next call overwrites."""
        values: dict[str, Any] = dict(zip(FIELDS, self.replay(*inputs)))
        return Predictions(**values)


class _TupleOutput(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        predictions = self.model(*inputs)
        return tuple(getattr(predictions, name) for name in FIELDS)
