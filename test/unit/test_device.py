"""device.py on the machine at hand, and on machines imitated by packages of the vendors' names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.commands import ENVIRONMENT, ROOT

from pivotnet import device as devices
from pivotnet.errors import PivotNetError


def with_npu(folder: Path, torch_npu: str, code: str, **variables: str) -> subprocess.CompletedProcess:
    """Run code in a new process, with a package of the vendor's name."""
    (folder / "torch_npu").mkdir()
    (folder / "torch_npu" / "__init__.py").write_text(torch_npu)
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    environment.pop("TORCH_DEVICE_BACKEND_AUTOLOAD", None)
    environment.update(variables)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)


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


def test_unknown_and_missing_devices_are_one_line():
    for name in ("tpu", "cuda:x", "cpu:one"):
        with pytest.raises(PivotNetError, match=f"^unknown device '{name}': choose npu, cuda or cpu.*$"):
            devices.select_device(name)
    if not torch.cuda.is_available():
        with pytest.raises(PivotNetError, match="^--device cuda cannot be used.*$"):
            devices.select_device("cuda")


def test_npu_without_cann_is_one_line(tmp_path):
    """Also where torch would load the wheel by itself at ``import torch``, and fail there."""
    wheel = tmp_path / "torch_npu-2.8.0.dist-info"
    wheel.mkdir()
    (wheel / "METADATA").write_text("Metadata-Version: 2.1\nName: torch_npu\nVersion: 2.8.0\n")
    (wheel / "entry_points.txt").write_text("[torch.backends]\ntorch_npu = torch_npu:_autoload\n")
    code = """
from pivotnet.cli import main
main(["train", "--preset", "smoke", "--device", "npu"])
from pivotnet.device import select_device
print(select_device())
"""
    done = with_npu(tmp_path, 'raise OSError("libhccl.so: cannot open:\\nNo such file or directory")', code)
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: --device npu cannot be used") and "libhccl.so" in line and "set_env.sh" in line
    assert done.stdout.strip() in ("cpu", "cuda:0"), "these stay usable"


def test_npu_goes_before_cuda_and_is_set_up(tmp_path):
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
    lines = with_npu(tmp_path, WORKING_NPU, code, TORCH_DEVICE_BACKEND_AUTOLOAD="0").stdout.splitlines()
    assert lines[0] == "npu:1 hccl [('device', 1), ('jit', False)] False"
    assert lines[1] == "False False"
    assert lines[2].startswith("npu:2 does not exist: 2 such device(s)")
