"""Devices: on the machine at hand, and on machines imitated by packages of the vendors' names. Ranks of one group: what
they exchange, what happens when one is lost, and batch norm over all of them."""

import copy
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.commands import ENVIRONMENT, ROOT, wait_for
from support.ranks import NORM_CASES, RANKS, batch_norm, exchange, norm_data, norm_share, observe_norm, run_ranks
from torch import nn

from pivotnet import device as devices
from pivotnet.distributed import Ranks, process_group, ranks_from_environment
from pivotnet.errors import PivotNetError
from pivotnet.model.ops.sync_batch_norm import SyncBatchNorm, convert_sync_batch_norm


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


@pytest.fixture
def start(tmp_path):
    """Starts two ranks of a case of support.ranks.exchange."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawning = multiprocessing.get_context("spawn")
    processes = []

    def start(case: str) -> list[multiprocessing.Process]:
        for rank in range(RANKS):
            processes.append(spawning.Process(target=exchange, args=(rank, case, tmp_path, port)))
            processes[-1].start()
        return processes

    yield start
    for process in processes:
        process.kill()
        process.join()


def test_ranks_exchange_until_one_is_lost_which_is_one_line(tmp_path, start):
    first, second = start("lost")
    first.join(120)
    assert (first.exitcode, second.exitcode) == (0, 9)
    for rank in range(RANKS):
        assert (tmp_path / f"agreed{rank}").read_text() == "rank 1: bad disk"
    message = (tmp_path / "lost").read_text()
    assert "rank 0 lost the connection to another rank" in message and "\n" not in message


def test_sigterm_ends_a_rank_that_waits_for_ever(tmp_path, start, capfd):
    first, _ = start("stuck")
    wait_for((tmp_path / "ready").exists, first.is_alive)
    first.terminate()
    asked = time.monotonic()
    first.join(60)
    assert first.exitcode == 143 and "no step has finished since SIGTERM" in capfd.readouterr().err
    assert 4 < time.monotonic() - asked < 25


def test_ranks_come_from_torchrun(monkeypatch):
    for name, value in (("RANK", "5"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "8"), ("LOCAL_WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    assert ranks_from_environment() == Ranks(5, 1, 8, 4)
    for name, value in (("RANK", "five"), ("LOCAL_RANK", "-1"), ("WORLD_SIZE", "²"), ("WORLD_SIZE", "0")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(PivotNetError, match=f"{name} in the environment is {value}: give a whole number"):
                ranks_from_environment()


def test_a_group_that_cannot_form_is_one_line(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "no-port")
    with pytest.raises(PivotNetError, match="rank 0 cannot join the gloo group of 2 ranks at 127.0.0.1:no-port"):
        with process_group(Ranks(0, 0, 2, 2), torch.device("cpu")):
            pass


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return run_ranks(norm_share, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", range(len(NORM_CASES)))
def test_two_processes_equal_the_joined_batch(recorded, case):
    """Recomputed in the backward pass, running statistics move twice, as those of BatchNorm2d."""
    offset, recompute = NORM_CASES[case]
    ranks = [rank[case] for rank in recorded]
    images, weights = norm_data(offset)
    joined = observe_norm(batch_norm().double(), images.double(), weights.double(), recompute)
    for key, wanted in joined.items():
        if key.startswith(("output", "image")):
            ours = torch.cat([rank[key] for rank in ranks])
        elif "gradient" in key:  # each rank has its share, which data parallel training adds up
            ours = sum(rank[key] for rank in ranks)
        else:  # statistics: the same on both ranks
            ours = ranks[0][key]
            torch.testing.assert_close(ours, ranks[1][key], rtol=0, atol=0)
        # Inputs of unit deviation around the offset are themselves known to 6e-8 of the offset only.
        tolerance = 1e-5 * float(wanted.abs().max()) + 1e-6 * offset
        torch.testing.assert_close(ours.to(wanted.dtype), wanted, rtol=0, atol=tolerance, msg=key)


def test_one_process_is_batch_norm_with_the_tensors_options_and_mode_of_before():
    plain = batch_norm()
    converted = convert_sync_batch_norm(copy.deepcopy(plain))
    assert isinstance(converted[0], SyncBatchNorm)
    first, second = (observe_norm(layers, *norm_data(0.0)) for layers in (plain, converted))
    for key, tensor in first.items():
        torch.testing.assert_close(second[key], tensor, rtol=0, atol=0)
    frozen = nn.BatchNorm2d(4, eps=1e-3, momentum=0.01).eval()
    weight = frozen.weight.requires_grad_(False)
    inner = convert_sync_batch_norm(nn.Sequential(nn.Sequential(frozen), nn.LayerNorm(3)))[0][0]
    assert inner.weight is weight and not weight.requires_grad
    assert (inner.eps, inner.momentum, inner.training) == (1e-3, 0.01, False)
