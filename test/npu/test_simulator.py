"""The simulated CANN itself: the real torch_npu runs on it, and it fails where hardware or torch_npu would."""

from __future__ import annotations

import pytest
import torch
from cannsim.counters import Counters


def test_copies_between_host_and_devices_keep_every_bit():
    values = torch.randn(7, 5)
    first = values.to("npu:0")
    second = first.to("npu:1")
    assert second.device == torch.device("npu:1")
    assert torch.equal(second.cpu(), values)
    assert torch.equal(first.t().contiguous().cpu(), values.t())


@pytest.mark.parametrize("other", ["cpu", "npu:1"])
def test_tensors_of_two_devices_do_not_meet(other: str):
    with pytest.raises(RuntimeError, match="same device|NPU tensor|a tensor lies on npu:1"):
        torch.ones(3, device="npu:0") + torch.ones(3, device=other)


def test_an_operator_that_is_not_simulated_fails_with_its_name():
    with pytest.raises(RuntimeError, match="aclnnFmodTensor is not simulated"):
        torch.fmod(torch.ones(3, device="npu"), torch.ones(3, device="npu"))


def test_strict_mode_refuses_cpu_fallbacks_and_float64():
    with pytest.raises(RuntimeError, match="linalg_inv_ex.* has no NPU kernel"):
        torch.linalg.inv(torch.eye(3, device="npu"))
    with pytest.raises(RuntimeError, match="aclnnMuls: float64 on the device"):
        torch.ones(3, dtype=torch.float64).npu() * 2


def test_a_copy_waits_unless_host_memory_is_page_locked():
    waits: list[str] = []
    counters = Counters()
    plain, locked = torch.randn(100), torch.randn(100).pin_memory()
    torch.npu.synchronize()
    counters.watch(lambda: waits.append("wait"), waits.append)
    locked.to("npu", non_blocking=True)
    assert not waits
    plain.to("npu", non_blocking=True)
    assert waits == ["wait"]
    torch.ones(2, device="npu").sum().item()
    counters.unwatch()
    assert waits == ["wait"] * 2


def test_memory_ends_where_the_simulated_device_ends():
    with pytest.raises(RuntimeError, match="out of memory|OutOfMemory"):
        torch.empty(70 * 2**30, dtype=torch.uint8, device="npu")
