"""Upstream's own deformable attention for GPUs, compiled outside its checkout."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from pivotnet.errors import PivotNetError

NAME = "MultiScaleDeformableAttention"
SOURCES = Path("mapmaster/models/bev_decoder/deform_transformer/ops/src")
# what torch has renamed since
RENAMED = {
    "THC/THCAtomics.cuh": "ATen/cuda/Atomic.cuh",
    ".type().is_cuda()": ".is_cuda()",
    "value.type()": "value.scalar_type()",
    ".data<": ".data_ptr<",
}


def compile_operator(checkout: Path) -> None:
    """Make ``MultiScaleDeformableAttention`` importable, which upstream imports; nothing stays on the disk.

    Raises:
        PivotNetError: nvcc or ninja is missing, or the compiler fails.
    """
    from torch.utils import cpp_extension  # here: it warns where there is no GPU

    if cpp_extension.CUDA_HOME is None:
        raise PivotNetError(
            "upstream's operator cannot be compiled: there is no nvcc; install the toolkit of CUDA "
            f"{torch.version.cuda}, set CUDA_HOME, or leave --against out"
        )
    if not cpp_extension.is_ninja_available():
        raise PivotNetError("upstream's operator cannot be compiled: there is no ninja; pip install ninja")
    with tempfile.TemporaryDirectory(prefix="pivotnet-operator-") as folder:
        for path in (checkout / SOURCES).rglob("*.*"):
            text = path.read_text()
            for old, new in RENAMED.items():
                text = text.replace(old, new)
            copy = Path(folder, path.relative_to(checkout / SOURCES))
            copy.parent.mkdir(exist_ok=True)
            copy.write_text(text)
        sources = [str(path) for path in Path(folder).rglob("*.c*") if path.suffix in (".cpp", ".cu")]
        flags = ["-DWITH_CUDA"]
        try:
            sys.modules[NAME] = cpp_extension.load(
                NAME, sources, flags, flags, build_directory=folder, extra_include_paths=[folder], with_cuda=True
            )
        except (RuntimeError, ImportError, OSError) as error:
            lines = [line.strip() for line in str(error).splitlines()]
            reason = next((line for line in lines if "error:" in line), lines[0])
            raise PivotNetError(f"upstream's operator does not compile ({reason}): leave --against out") from error
