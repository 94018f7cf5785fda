"""Import a checkout of upstream, unmodified, with or without CUDA.

Upstream asks for a GPU in places where none is needed to compute. What asks for one is replaced from outside, before
upstream is imported; no file of the checkout is changed, not even by byte code:

- ``.cuda()`` of tensors and modules is the identity, a default argument ``device="cuda"`` becomes ``"cpu"``;
- ``numpy.bool`` and ``numpy.float``, gone from numpy, are the built-in types again;
- torchvision, detectron2 and scikit-image are the port's substitutes for them; clearml and the compiled deformable
  attention are stand-ins that fail when they are used;
- the deformable attention operator runs upstream's own plain-PyTorch core, with the level shapes as Python integers.

Where torch_npu's transfer_to_npu was imported before, CUDA means the NPU, and the operator is mx_driving's. On a GPU
CUDA stays what it is, and the operator is upstream's own.
Besides this project's requirements it needs mmcv 1.7.2 (pure Python), addict, yapf, tabulate, loguru, tensorboardX."""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import io
import logging
import sys
import tempfile
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from pivotnet.errors import PivotNetError
from pivotnet.upstream import substitutes
from pivotnet.upstream.transform import Compose

COMMIT_FILES = ("mapmaster/models/network.py", "configs/pivotnet_nuscenes_swint.py", "tools/evaluation/eval.py")
NEEDED = ("mmcv", "addict", "yapf", "tabulate", "loguru", "tensorboardX")
PRESETS = ("swint", "res50", "effb0")
OPERATOR = "MultiScaleDeformableAttention"
OPERATOR_SOURCES = Path("mapmaster/models/bev_decoder/deform_transformer/ops/src")
# what torch has renamed since
RENAMED_IN_TORCH = {
    "THC/THCAtomics.cuh": "ATen/cuda/Atomic.cuh",
    ".type().is_cuda()": ".is_cuda()",
    "value.type()": "value.scalar_type()",
    ".data<": ".data_ptr<",
}


def find_checkout(checkout: Path) -> Path:
    """Its absolute path. Raises PivotNetError: it is no checkout of upstream, or a package that it needs is missing."""
    checkout = checkout.resolve()
    missing = [name for name in COMMIT_FILES if not (checkout / name).is_file()]
    if missing:
        remedy = "make one with tools/upstream.sh fetch"
        raise PivotNetError(f"{checkout} is no checkout of upstream PivotNet: it lacks {missing[0]}; {remedy}")
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise PivotNetError(
            f"upstream imports {', '.join(absent)}: pip install 'setuptools<81' wheel && MMCV_WITH_OPS=0 "
            f"pip install --no-build-isolation mmcv==1.7.2 && pip install {' '.join(absent)}"
        )
    return checkout


def import_upstream(checkout: Path, gpu: Path | None = None) -> Path:
    """Make ``mapmaster``, ``tools`` and the modules of configs/ of that checkout importable: for a CPU, or for a GPU,
    where ``gpu`` is the folder in which its operator is compiled. Idempotent. Raises PivotNetError: as
    ``find_checkout``, or the operator does not compile."""
    checkout = find_checkout(checkout)
    if str(checkout) in sys.path:
        return checkout
    sys.dont_write_bytecode = True
    logging.disable(logging.INFO)  # mmcv reports every parameter that it initialises
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    if gpu:
        compile_operator(checkout, gpu)
    elif not _on_npu():
        for kind in (torch.Tensor, nn.Module):
            kind.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign,assignment]
    for name, builtin in (("bool", bool), ("float", float)):
        if name not in np.__dict__:
            setattr(np, name, builtin)
    _add_stand_ins()
    sys.path[:0] = [str(checkout), str(checkout / "configs"), str(checkout / "tools" / "evaluation")]
    if not gpu:
        _replace_deformable_attention()
    heads = importlib.import_module("mapmaster.models.output_head")
    for head in () if gpu or _on_npu() else (heads.PivotMapOutputHead, heads.PiecewiseBezierMapOutputHead):
        head.compute_locations = lambda self, device, compute=head.compute_locations: compute(self, device="cpu")
    efficientnet = importlib.import_module("mapmaster.models.backbone.efficientnet.model")
    efficientnet.load_pretrained_weights = lambda *args, **kwargs: None
    return checkout


def compile_operator(checkout: Path, folder: Path) -> None:
    """Compile upstream's operator for GPUs in ``folder``, outside its checkout, unless that was done before, and make
    it importable. Raises PivotNetError: nvcc (CUDA_HOME) or ninja is missing, or the compiler fails."""
    from torch.utils import cpp_extension  # here: it warns where there is no GPU

    for path in (checkout / OPERATOR_SOURCES).rglob("*.*"):
        text = path.read_text()
        for old, new in RENAMED_IN_TORCH.items():
            text = text.replace(old, new)
        copied = folder / path.relative_to(checkout / OPERATOR_SOURCES)
        copied.parent.mkdir(exist_ok=True)
        if not copied.exists():  # ninja compiles what is newer than its objects
            copied.write_text(text)
    sources = [str(path) for path in sorted(folder.rglob("*.c*")) if path.suffix in (".cpp", ".cu")]
    flags = ["-DWITH_CUDA"]
    try:
        sys.modules[OPERATOR] = cpp_extension.load(
            OPERATOR, sources, flags, flags, build_directory=str(folder), extra_include_paths=[str(folder)]
        )
    except (RuntimeError, ImportError, OSError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        reason = next((line for line in lines if "error:" in line), lines[0])
        raise PivotNetError(f"upstream's operator does not compile ({reason}): leave --against out") from error


def _on_npu() -> bool:
    """Whether CUDA means an NPU in this process."""
    return "torch_npu.contrib.transfer_to_npu" in sys.modules


def _unavailable(*args: Any, **kwargs: Any) -> Any:
    raise PivotNetError("upstream called a function that is only a stand-in here")


# parents first
_STAND_INS: dict[str, dict[str, Any]] = {
    "clearml": {"Task": _unavailable},
    "torchvision": vars(substitutes.torchvision),
    "torchvision.transforms": {"Compose": Compose},
    "detectron2": {},
    "detectron2.projects": {},
    "detectron2.projects.point_rend": {},
    "detectron2.projects.point_rend.point_features": {
        name: getattr(substitutes, name) for name in ("point_sample", "get_uncertain_point_coords_with_randomness")
    },
    "skimage": {},
    "skimage.io": {"imread": lambda path: np.asarray(Image.open(path))},
    OPERATOR: {},
}


def _add_stand_ins() -> None:
    installed = {name for name in _STAND_INS if "." not in name and importlib.util.find_spec(name) is not None}
    for name, members in _STAND_INS.items():
        if name.partition(".")[0] not in installed:
            module = types.ModuleType(name)
            module.__spec__ = importlib.util.spec_from_loader(name, loader=None)
            module.__dict__.update(members, __path__=[])
            sys.modules[name] = module


def _replace_deformable_attention() -> None:
    operators = importlib.import_module("mapmaster.models.bev_decoder.deform_transformer.ops.functions")
    function = operators.MSDeformAttnFunction
    core = importlib.import_module(function.__module__).ms_deform_attn_core_pytorch

    def apply(value, shapes, level_start, locations, weights, im2col_step):  # type: ignore[no-untyped-def]
        if _on_npu():
            operator = importlib.import_module("mx_driving").multi_scale_deformable_attn
            return operator(value, shapes, level_start, locations, weights)
        return core(value, [(int(h), int(w)) for h, w in shapes], locations, weights)

    function.apply = staticmethod(apply)


def model_setup(preset: str, family: str = "pivotnet") -> dict[str, Any]:
    """Upstream's own model configuration: of swint, res50 or effb0, in the ``family`` pivotnet or bemapnet."""
    for name in [name for name in sys.modules if name.startswith(("pivotnet_nuscenes_", "bemapnet_nuscenes_"))]:
        del sys.modules[name]  # the res50 and effb0 files edit the dictionaries of the swint file in place
    setup = copy.deepcopy(importlib.import_module(f"{family}_nuscenes_{preset}").EXPConfig.model_setup)
    setup["im_backbone"]["bkb_kwargs"].pop("init_cfg", None)
    return setup


def build(preset: str, family: str = "pivotnet", deterministic: bool = True, **changes: dict[str, Any]) -> nn.Module:
    """Upstream's network of a preset, batch norms as for one process, in training mode. ``deterministic``: without
    dropout, drop path and drop connect, as recorded. ``changes``: other options by part (bev_decoder={...})."""
    setup = model_setup(preset, family)
    for part, options in changes.items():
        setup[part]["net_kwargs"].update(options)
    backbone = setup["im_backbone"]["bkb_kwargs"]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        if "pretrained" in backbone:
            backbone["pretrained"] = str(Path(folder) / "empty.pth")
            torch.save({"state_dict": {}}, backbone["pretrained"])
        network = importlib.import_module("mapmaster.models.network").MapMaster(setup)
    for module in network.modules():
        if isinstance(module, nn.SyncBatchNorm):  # torch's refuses the CPU, and one process needs none
            module.__class__ = nn.BatchNorm2d
    if deterministic:
        switch_randomness_off(network)
    return network


def optimizer(network: nn.Module) -> tuple[torch.optim.Optimizer, dict[str, Any]]:
    """Upstream's optimiser of that network, and its configuration."""
    setup = importlib.import_module("pivotnet_nuscenes_swint").EXPConfig.optimizer_setup
    groups = importlib.import_module("mapmaster.utils.misc").get_param_groups(network, setup)
    return torch.optim.AdamW(groups), setup


def switch_randomness_off(network: nn.Module) -> None:
    """Dropout, attention dropout, drop path and drop connect at rate 0."""
    for module in network.modules():
        for kind, rate in ((nn.Dropout, "p"), (nn.MultiheadAttention, "dropout"), (nn.Module, "drop_prob")):
            if isinstance(module, kind) and hasattr(module, rate):
                setattr(module, rate, 0.0)
        if hasattr(module, "_global_params"):
            module._global_params = module._global_params._replace(drop_connect_rate=0.0)
