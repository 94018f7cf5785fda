"""device.py on the machine at hand, and on machines imitated by packages of the vendors' names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pivotnet import device as devices
from pivotnet.errors import PivotNetError

CPU = torch.device("cpu")


def run_python(code: str, path: Path | str = "", autoload: bool = False) -> subprocess.CompletedProcess:
    root = Path(devices.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{root}", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    if autoload:
        del environment["TORCH_DEVICE_BACKEND_AUTOLOAD"]
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)


def imitate_npu(folder: Path, body: str) -> None:
    (folder / "torch_npu").mkdir()
    (folder / "torch_npu" / "__init__.py").write_text(body)


WORKING_NPU = """
import types, torch
torch.utils.rename_privateuse1_backend("npu")
module = types.ModuleType("npu")
calls = []
module.is_available = lambda: True
module.device_count = lambda: 2
module.set_device = lambda device: calls.append(("device", device.index))
module.set_compile_mode = lambda jit_compile: calls.append(("jit", jit_compile))
module.config = types.SimpleNamespace(allow_internal_format=True)
module.matmul = types.SimpleNamespace(allow_hf32=True)
module.conv = types.SimpleNamespace(allow_hf32=True)
module.calls = calls
torch._register_device_module("npu", module)
torch.cuda.is_available = lambda: True  # what transfer_to_npu makes it say
"""


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "cpu:one"])
def test_unknown_device_names_the_choices(name):
    with pytest.raises(PivotNetError, match="npu|cuda"):
        devices.select_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_missing_gpu_is_one_line():
    with pytest.raises(PivotNetError, match="--device cuda cannot be used") as caught:
        devices.select_device("cuda")
    assert "\n" not in str(caught.value)


def test_npu_without_cann_is_one_line(tmp_path):
    """Also where torch would load the wheel by itself at ``import torch``, and fail there."""
    imitate_npu(tmp_path, 'raise OSError("libhccl.so: cannot open shared object file:\\nNo such file or directory")')
    wheel = tmp_path / "torch_npu-2.8.0.dist-info"
    wheel.mkdir()
    (wheel / "METADATA").write_text("Metadata-Version: 2.1\nName: torch_npu\nVersion: 2.8.0\n")
    (wheel / "entry_points.txt").write_text("[torch.backends]\ntorch_npu = torch_npu:_autoload\n")
    code = "from pivotnet.cli import main; main(['train', '--preset', 'smoke', '--device', 'npu'])"
    done = run_python(code, tmp_path, autoload=True)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: --device npu cannot be used"), done.stderr
    assert "libhccl.so" in lines[0] and "set_env.sh" in lines[0]


def test_broken_npu_wheel_leaves_the_cpu_usable(tmp_path):
    imitate_npu(tmp_path, 'raise ImportError("libascendcl.so")')
    done = run_python("from pivotnet.device import select_device; print(select_device())", tmp_path)
    assert done.stdout.strip() in ("cpu", "cuda:0"), done.stderr


def test_npu_goes_before_cuda_and_is_set_up(tmp_path):
    imitate_npu(tmp_path, WORKING_NPU)
    code = """
from pivotnet import device as d
from pivotnet.errors import PivotNetError
device = d.select_device(None, local_rank=1)
import torch
print(device, d.distributed_backend(device), torch.npu.calls, torch.npu.config.allow_internal_format)
d.set_reduced_precision(False)
print(torch.npu.matmul.allow_hf32, torch.npu.conv.allow_hf32)
try:
    d.select_device("npu", local_rank=2)
except PivotNetError as error:
    print(error)
"""
    lines = run_python(code, tmp_path).stdout.splitlines()
    assert lines[0] == "npu:1 hccl [('device', 1), ('jit', False)] False"
    assert lines[1] == "False False"
    assert lines[2].startswith("npu:2 does not exist: 2 such device(s)")
