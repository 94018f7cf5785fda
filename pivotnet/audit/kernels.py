"""What a device computes in one kernel and the CPU in many: counted as the device's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from pivotnet import device as devices
from pivotnet.audit.recorder import Recorder
from pivotnet.model.ops import deformable_attention_cpu


@contextlib.contextmanager
def single_kernels(recorder: Recorder) -> Iterator[None]:
    """Count deformable attention as one launch forward and one backward, as its compiled kernel is.

    And take all masks at once, which on a CPU are taken a few at a time.
    """
    if not recorder.plays:
        yield
        return
    plain = deformable_attention_cpu.deformable_attention

    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Tensor, shapes: Any, locations: Tensor, weights: Tensor) -> Tensor:
            ctx.save_for_backward(value, locations, weights)
            ctx.shapes = shapes
            with recorder.paused():
                result = plain(value, shapes, locations, weights)
            recorder.launch("multi_scale_deformable_attention")
            return result

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
            with recorder.paused(), torch.enable_grad():
                leaves = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
                result = plain(leaves[0], ctx.shapes, leaves[1], leaves[2])
                value, locations, weights = torch.autograd.grad(result, leaves, gradient)
            recorder.launch("multi_scale_deformable_attention_backward")
            recorder.take([value, locations, weights])
            return value, None, locations, weights

    def counted(value: Tensor, shapes: Any, locations: Tensor, weights: Tensor) -> Tensor:
        return Kernel.apply(value, shapes, locations, weights)

    with mock.patch.object(deformable_attention_cpu, "deformable_attention", counted), all_rows_at_once():
        yield


def all_rows_at_once() -> contextlib.AbstractContextManager:
    """Work on rows as a device with memory of its own does, not in pieces for a CPU's cache."""
    return mock.patch.object(devices, "rows_at_once", lambda device, row_bytes: None)
