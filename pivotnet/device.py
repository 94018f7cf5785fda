"""The only file that distinguishes NPU, GPU and CPU. Everything else asks here: which device, which collective backend,
which optimiser kernel, how to wait, how to measure. The NPU is looked for before CUDA, because torch_npu's
transfer_to_npu (which mx_driving imports) makes ``torch.cuda.is_available()`` true on an NPU. torch_npu is optional; it
is imported late, and only when it is needed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import resource
import sys
from typing import Any

import torch
from torch import Tensor

from pivotnet.errors import PivotNetError
from pivotnet.limits import OLD_CANN

REPORTED_PACKAGES = "torch_npu mx_driving numpy scipy opencv-python-headless opencv-python pillow shapely".split()


def _npu_problem() -> str | None:
    """Why no NPU can be used here, in a few words; None when one can."""
    # first: a machine without the wheel must not spend time on an import, or fail in it
    if importlib.util.find_spec("torch_npu") is None:
        return "torch_npu is not installed (pip install --no-deps torch-npu, of torch's own version)"
    try:
        importlib.import_module("torch_npu")
    except Exception as error:  # without CANN the import raises OSError, ImportError or RuntimeError
        reason = " ".join(str(error).split())
        return f"torch_npu does not import ({reason}): install CANN, source its set_env.sh, and fit torch's version"
    if not _module("npu").is_available():
        return "torch_npu finds no device: look at npu-smi info and ASCEND_RT_VISIBLE_DEVICES"
    return None


def _cuda_problem() -> str | None:
    if torch.version.cuda is None and torch.version.hip is None:
        return f"this torch ({torch.__version__}) is built without CUDA"
    if not torch.cuda.is_available():
        return "torch finds no GPU: look at nvidia-smi and CUDA_VISIBLE_DEVICES"
    return None


def select_device(name: str | None = None, local_rank: int = 0) -> torch.device:
    """The device of this process, made the current one. ``name`` is npu, cuda or cpu, also with an index as in
    ``npu:3``; None or ``auto`` takes the first of them that works. ``local_rank``, the index among this machine's
    processes, chooses the card when ``name`` has no index. Raises PivotNetError: the device asked for cannot be used,
    or there are fewer cards than processes."""
    kind, _, index_text = (name or "auto").partition(":")
    if kind not in ("npu", "cuda", "cpu", "auto") or (index_text and not index_text.isdigit()):
        raise PivotNetError(f"unknown device {name!r}: choose npu, cuda or cpu (npu:1 for the second card), or auto")
    problems = {"npu": _npu_problem, "cuda": _cuda_problem, "cpu": lambda: None}
    if kind == "auto":
        kind = next(name for name, problem in problems.items() if problem() is None)
    elif problem := problems[kind]():
        raise PivotNetError(f"--device {name} cannot be used: {problem}; --device cpu works everywhere")
    if kind == "cpu":
        return torch.device("cpu")
    index, module = int(index_text or local_rank), _module(kind)
    count = module.device_count()
    if index >= count:
        raise PivotNetError(f"{kind}:{index} does not exist: {count} such device(s) are visible; start fewer processes")
    device = torch.device(kind, index)
    module.set_device(device)
    if kind == "npu":
        # Both are defaults of newer releases; older ones compile each operator and use private tensor formats.
        module.set_compile_mode(jit_compile=False)
        module.config.allow_internal_format = False
    return device


def _module(kind: str) -> Any:
    return getattr(torch, kind)


def _old_cann(device: torch.device) -> str:
    """The release of CANN, where it lacks what OLD_CANN says; empty where it does not, or is unknown."""
    release = _module("npu").utils.get_cann_version() if device.type == "npu" else ""
    return release if OLD_CANN.match(release) else ""


def device_count(kind: str) -> int:
    """Visible cards of a type that ``select_device`` has accepted; for the CPU the number of its cores."""
    return (os.cpu_count() or 1) if kind == "cpu" else _module(kind).device_count()


def device_name(device: torch.device) -> str:
    """What the vendor calls the device."""
    if device.type == "cpu":
        return f"{platform.machine()} CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return str(_module(device.type).get_device_name(device))


def distributed_backend(device: torch.device) -> str:
    """The collective library of the device, as ``torch.distributed.init_process_group`` names it."""
    return {"npu": "hccl", "cuda": "nccl"}.get(device.type, "gloo")


def check_graphs(device: torch.device) -> None:
    """Raise PivotNetError unless the device can capture graphs."""
    if device.type == "cpu":
        raise PivotNetError("--graph needs an NPU or a GPU: a CPU has no graphs to replay; leave the option out")
    if device.type == "npu" and not hasattr(getattr(_module("npu"), "NPUGraph", None), "register_generator_state"):
        found = versions().get("torch_npu")
        raise PivotNetError(f"--graph needs a newer torch_npu than {found}: its graphs cannot draw random numbers")
    if release := _old_cann(device):
        raise PivotNetError(f"--graph needs a newer CANN than {release}: it has no random numbers in graphs; try 8.5.0")


def doubts(device: torch.device, dtype: torch.dtype | None) -> list[str]:
    """What this release of CANN does not document of mixed precision in ``dtype``, for the log."""
    if dtype is None or not (release := _old_cann(device)):
        return []
    remedy = "compare some losses with float32, or try 8.5.0"
    return [f"CANN {release} does not document bfloat16 for all operators: {remedy}"]


def capture(module: Any, inputs: tuple[Tensor, ...]) -> Any:
    """A module's forward and backward pass as graphs that the device of ``inputs`` replays. The module runs a few times
    before that, with ``inputs``, which become the graphs' own."""
    return _module(inputs[0].device.type).make_graphed_callables(module, inputs, allow_unused_input=True)


def has_fused_adamw(device: torch.device) -> bool:
    """Whether this torch has AdamW as one kernel for the device."""
    key = {"npu": "PrivateUse1", "cuda": "CUDA"}.get(device.type, "CPU")
    return torch._C._dispatch_has_kernel_for_dispatch_key("aten::_fused_adamw_", key)


def synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        _module(device.type).synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    if device.type != "cpu":
        _module(device.type).reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as stream:
        stream.write("5")  # resets VmHWM


def peak_memory(device: torch.device) -> int:
    """Largest number of bytes in use since ``reset_peak_memory``: the allocator's on a card, resident set on a CPU."""
    if device.type != "cpu":
        return int(_module(device.type).max_memory_allocated(device))
    with contextlib.suppress(OSError), open("/proc/self/status") as stream:
        for line in stream:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def pin_memory(device: torch.device) -> bool:
    """Whether copies to the device need page-locked host memory to be asynchronous."""
    return device.type != "cpu"


def set_reduced_precision(allowed: bool) -> None:
    """Switch TF32 (CUDA) and HF32 (NPU) of matrix products and convolutions. Off is what upstream's numbers are
    compared with; torch_npu switches HF32 convolutions on by default."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
    if "torch_npu" in sys.modules:
        _module("npu").matmul.allow_hf32 = allowed
        _module("npu").conv.allow_hf32 = allowed


def set_deterministic() -> None:
    """Ask for the same bits in every run; operators that have no such kernel warn once."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("HCCL_DETERMINISTIC", "true")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


def rng_state(device: torch.device) -> dict[str, Any]:
    """State of torch's generators, the only ones that training draws from."""
    own = None if device.type == "cpu" else _module(device.type).get_rng_state(device)
    return {"torch": torch.get_rng_state(), "device": own}


def set_rng_state(device: torch.device, state: dict[str, Any]) -> None:
    """Restore what ``rng_state`` gave; the state of another type of device is ignored."""
    torch.set_rng_state(state["torch"])
    if device.type != "cpu" and state["device"] is not None:
        _module(device.type).set_rng_state(state["device"], device)


def profile(device: torch.device, folder: str, first: int, steps: int) -> contextlib.AbstractContextManager:
    """Record ``steps`` steps after the ``first`` ones into ``folder``: for Perfetto, or MindStudio Insight (NPU). The
    ``step()`` of what the context gives is to be called at the end of each step."""
    profiler = importlib.import_module("torch_npu.profiler") if device.type == "npu" else torch.profiler
    return profiler.profile(
        activities=[getattr(profiler.ProfilerActivity, name) for name in sorted({"CPU", device.type.upper()})],
        schedule=profiler.schedule(wait=max(0, first - 1), warmup=1, active=steps, repeat=1),
        on_trace_ready=profiler.tensorboard_trace_handler(folder),
    )


def versions() -> dict[str, str]:
    """Versions for reports: Python, torch, the packages that are installed, CUDA as torch was built with it."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in REPORTED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found


def to_host(tensor: Tensor) -> Tensor:
    """A detached copy in host memory that shares its storage with nothing."""
    return tensor.detach().to("cpu", copy=True)
