"""How the network runs in a step: in mixed precision, as captured graphs. Autocast casts each weight by itself, and
each gradient back: more launches than matrix products. So the weights are cast together, once a step. Graphs
replay the forward and the backward pass in one launch each; matching needs the host in between, so the criterion and
the optimiser stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pivotnet import device as devices
from pivotnet.structures import Predictions

FIELDS = tuple(field.name for field in fields(Predictions) if field.name != "extras")


class MixedPrecision(nn.Module):
    """A network, on its device, whose backbone computes in ``dtype``; results and gradients are those of autocast, bit
    for bit."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype
        cast = {  # weights that are, by name
            f"im_backbone.{path}.{name}": parameter
            for path, module in model.get_submodule("im_backbone").named_modules()
            if isinstance(module, (nn.Linear, nn.Conv2d))
            for name, parameter in module.named_parameters(recurse=False)
            if parameter.requires_grad
        }
        self.names, self.weights = list(cast), list(cast.values())

    def forward(self, *inputs: Tensor) -> Any:
        weights = _Cast.apply(self.dtype, *self.weights) if self.weights else ()
        with torch.autocast(inputs[0].device.type, self.dtype):
            return functional_call(self.model, dict(zip(self.names, weights)), inputs)


class _Cast(torch.autograd.Function):
    """Tensors -> the same in ``dtype``, one launch each way besides joining them."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return _cast(weights, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        found = iter(_cast([gradient for gradient in gradients if gradient is not None], torch.float32))
        return None, *(None if gradient is None else next(found) for gradient in gradients)


def _cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    flat = torch.cat([tensor.flatten() for tensor in tensors]).to(dtype)
    return tuple(part.view(t.shape) for part, t in zip(flat.split([t.numel() for t in tensors]), tensors))


def graphed_network(model: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[..., Predictions]:
    """What stands in for a network in training, for batches of one size; the next call overwrites its predictions.
    ``model`` is on its device, in training mode, without checkpointing; ``inputs`` are images, reference points and
    validity of a batch."""
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
