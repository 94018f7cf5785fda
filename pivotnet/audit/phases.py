"""Which part of a training step is running, told by hooks on the trainer's own objects."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from torch import nn

from pivotnet.training.loop import Trainer

# Modules of the network by phase.
PARTS = {
    "im_backbone": "backbone forward",
    "bev_decoder.bev_encoder": "BEV forward",
    "ins_decoder.bev_decoder": "line decoder forward",
    "output_head": "point head forward",
}


class Phases:
    """The name of the running phase, and what is to be done at the end of each."""

    def __init__(self) -> None:
        self.current = "input"
        self.at_end: Callable[[], None] = lambda: None

    @contextlib.contextmanager
    def watch(self, trainer: Trainer) -> Iterator[None]:
        """Follow ``trainer.train_step`` for the block."""
        with contextlib.ExitStack() as stack:
            for path, phase in PARTS.items():
                self._around_module(stack, trainer.model.get_submodule(path), phase)
            head = trainer.model.get_submodule("output_head")
            for name in ("semantic", "mean_coordinate_features"):  # called beside forward
                inside = self._inside(getattr(head, name), PARTS["output_head"])
                stack.enter_context(mock.patch.object(head, name, inside))
            handle = trainer.criterion.register_forward_pre_hook(lambda *_: self.enter("criterion"))
            stack.callback(handle.remove)
            handle = trainer.criterion.register_forward_hook(lambda *_: self.enter("backward"))
            stack.callback(handle.remove)
            optimizer = trainer.optimizer
            zero_grad, step = optimizer.zero_grad, optimizer.step
            after_zero = self._inside(zero_grad, "optimiser", then="input")
            after_step = self._inside(step, "optimiser", then="loss report")
            stack.enter_context(mock.patch.object(optimizer, "zero_grad", after_zero))
            stack.enter_context(mock.patch.object(optimizer, "step", after_step))
            yield

    def enter(self, phase: str) -> None:
        """End the running phase and begin another."""
        self.at_end()
        self.current = phase

    def _around_module(self, stack: contextlib.ExitStack, module: nn.Module, phase: str) -> None:
        handle = module.register_forward_pre_hook(lambda *_: self.enter(phase))
        stack.callback(handle.remove)
        handle = module.register_forward_hook(lambda *_: self.enter("input"))
        stack.callback(handle.remove)

    def _inside(self, function: Callable[..., Any], phase: str, then: str = "input") -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            self.enter(phase)
            try:
                return function(*args, **kwargs)
            finally:
                self.enter(then)

        return run
