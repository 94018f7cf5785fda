"""Import the other side: a checkout of upstream, or of a published port of it to NPUs, on a CPU.

A published port imports torch_npu and mx_driving and moves tensors to "npu". It gets stand-ins from outside: "npu" is
the CPU, the fused optimiser is torch's AdamW, the kernel is upstream's own plain-PyTorch core, as it is for upstream.
"""

from __future__ import annotations

import importlib
import logging
import sys
import types
from pathlib import Path
from typing import Any

import torch
from recordings import shim

from pivotnet.errors import PivotNetError


def import_other(checkout: Path) -> Path:
    """Make the checkout importable in this process.

    Raises:
        PivotNetError: it is none, or a package that it imports is missing.
    """
    logging.disable(logging.INFO)  # mmcv reports every parameter that it initialises
    if _imports_npu(checkout):
        _stand_in_for_npu()
    try:
        found = shim.import_upstream(checkout)
    except shim.ShimError as error:
        raise PivotNetError(str(error)) from error
    if "mx_driving" in sys.modules:
        core = importlib.import_module("mapmaster.models.bev_decoder.deform_transformer.ops.functions")
        _kernel.append(core.MSDeformAttnFunction.apply)
    return found


_kernel: list[Any] = []


def _imports_npu(checkout: Path) -> bool:
    files = [checkout / "run.sh", *checkout.glob("mapmaster/**/*.py"), *checkout.glob("configs/*.py")]
    return any(b"import torch_npu" in path.read_bytes() for path in files if path.is_file())


def _attention(value: Any, shapes: Any, starts: Any, locations: Any, weights: Any) -> Any:
    return _kernel[0](value, shapes, starts, locations, weights, 64)


def _stand_in_for_npu() -> None:
    def module(name: str, **members: Any) -> types.ModuleType:
        made = types.ModuleType(name)
        made.__dict__.update(members, __path__=[])
        sys.modules[name] = made
        return made

    module("torch_npu")
    module("torch_npu.contrib", transfer_to_npu=module("torch_npu.contrib.transfer_to_npu"))
    module("torch_npu.optim", NpuFusedAdamW=torch.optim.AdamW)
    module("mx_driving", npu_multi_scale_deformable_attn_function=_attention)
    torch.npu = types.SimpleNamespace(  # type: ignore[attr-defined]
        config=types.SimpleNamespace(), set_compile_mode=lambda **options: None
    )
    move = torch.Tensor.to

    def on_cpu(self: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        return move(self, *["cpu" if value == "npu" else value for value in arguments], **options)

    torch.Tensor.to = on_cpu  # type: ignore[method-assign,assignment]


def describe(checkout: Path) -> str:
    """A name for the reports."""
    return f"{checkout.name} (a port to NPUs)" if _imports_npu(checkout) else f"{checkout.name} (upstream)"
