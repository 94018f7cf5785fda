"""Import the other side, a checkout of upstream, on a CPU."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from recordings import shim
from torch import Tensor

from pivotnet.audit.operators import OperatorCounter


def import_upstream(checkout: Path) -> Path:
    """Make the checkout importable in this process."""
    logging.disable(logging.INFO)  # mmcv reports every parameter that it initialises
    return shim.import_upstream(checkout)


@contextlib.contextmanager
def attention_as_one_launch(counter: OperatorCounter) -> Iterator[None]:
    """Count the core of deformable attention as one launch each way, as the compiled operator that it stands for."""
    operators = importlib.import_module("mapmaster.models.bev_decoder.deform_transformer.ops.functions")
    function = operators.MSDeformAttnFunction
    core = function.apply

    def counted(name: str, compute: Callable[[], tuple[Tensor, ...]], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        with counter.paused():
            found = compute()
        counter.launch(name, [*inputs, *found])
        return found

    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, compute: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
            ctx.compute = compute
            ctx.save_for_backward(*inputs)
            return counted("deformable_attention", lambda: (compute(*inputs),), inputs)[0]

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
            leaves = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]

            def differentiate() -> tuple[Tensor, ...]:
                with torch.enable_grad():
                    return torch.autograd.grad(ctx.compute(*leaves), leaves, gradient)

            return None, *counted("deformable_attention_backward", differentiate, (gradient, *leaves))

    def apply(value: Tensor, shapes: Any, starts: Any, locations: Tensor, weights: Tensor, step: int) -> Tensor:
        return Kernel.apply(lambda v, p, w: core(v, shapes, starts, p, w, step), value, locations, weights)

    function.apply = staticmethod(apply)
    try:
        yield
    finally:
        function.apply = staticmethod(core)
