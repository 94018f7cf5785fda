"""Count the operators that a piece of torch code launches, and the bytes that they read and write.

It counts any code by the rules of ``pivotnet audit``, which counts our own step in more detail: host waits too, which
need to know the tensors that would live on a device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from pivotnet.audit.operators import launches, operator_name


class OperatorCounter(TorchDispatchMode):
    """Counts aten calls below autograd, views left out, by the phases that ``close`` ends."""

    def __init__(self) -> None:
        super().__init__()
        self.phases: dict[str, Counter[str]] = {}
        self.bytes: Counter[str] = Counter()
        self._open: Counter[str] = Counter()
        self._open_bytes = 0
        self._within = 0  # > 0 inside something that counts as one operator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._within == 0 and launches(func):
            self._add(operator_name(func), (args, kwargs, result))
        return result

    def _add(self, name: str, values: Any) -> None:
        self._open[name] += 1
        leaves, _ = tree_flatten(values)
        self._open_bytes += sum(t.numel() * t.element_size() for t in leaves if isinstance(t, Tensor))

    def close(self, phase: str) -> None:
        """What was counted since the last call belongs to ``phase``."""
        self.phases.setdefault(phase, Counter()).update(self._open)
        self.bytes[phase] += self._open_bytes
        self._open, self._open_bytes = Counter(), 0

    def whole(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function that counts as one operator."""
        self._within += 1
        try:
            result = function(*arguments)
        finally:
            self._within -= 1
        if self._within == 0:
            self._add(name, (arguments, result))
        return result

    def as_kernel(self, name: str, function: Callable[..., Tensor], tensors: int) -> Callable[..., Tensor]:
        """``function`` as a compiled kernel would be counted: one operator forward, one backward.

        Args:
            function: differentiable.
            tensors: how many tensors it takes, before its other arguments.
        """
        counter = self

        class Kernel(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *arguments: Any) -> Tensor:
                ctx.save_for_backward(*arguments[:tensors])
                ctx.rest = arguments[tensors:]
                return counter.whole(name, function, *arguments)

            @staticmethod
            def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
                inputs = [t.detach().requires_grad_() for t in ctx.saved_tensors]

                def differentiate(gradient: Tensor) -> tuple[Tensor, ...]:
                    with torch.enable_grad():
                        result = function(*inputs, *ctx.rest)
                    return torch.autograd.grad(result, inputs, gradient)

                found = counter.whole(f"{name} backward", differentiate, *gradients)
                return (*found, *([None] * len(ctx.rest)))

        return Kernel.apply

    def result(self) -> dict[str, Any]:
        """Counts and bytes by phase, and the most frequent operators of all."""
        everything: Counter[str] = Counter()
        for counts in self.phases.values():
            everything.update(counts)
        return {
            "by_phase": {phase: sum(counts.values()) for phase, counts in self.phases.items()},
            "bytes": dict(self.bytes),
            "total": sum(everything.values()),
            "most_frequent": dict(everything.most_common(12)),
        }
