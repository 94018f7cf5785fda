"""Simulated CANN: the real torch_npu runs on it, it fails where hardware or torch_npu would, it takes what CANN says it
takes (tools/cannsim/contract), and the package asks for nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cannsim.counters import Counters, contract, faults
from support.scene import NPU, batch, losses, trainer
from support.small import small
from torch import Tensor

from pivotnet import device as devices
from pivotnet.errors import PivotNetError


def made(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(shape, dtype=dtype, device=NPU)


def attention(*shape: int, layout: str = "BNSD", mask: tuple[int, ...] | None = None, **changes: Any) -> None:
    import torch_npu

    query = made(*shape)
    hidden = None if mask is None else made(*mask, dtype=torch.bool)
    torch_npu.npu_fusion_attention(query, query, query, 2, layout, atten_mask=hidden, **changes)


FAULTS: dict[str, tuple[Callable[[], Any], str]] = {
    "dtype": (lambda: made(3, dtype=torch.bfloat16).floor(), r"aclnnFloor: self is BFLOAT16, allowed: .*FLOAT "),
    "rank": (lambda: made(*[1] * 9), r"aclnnInplaceOne: selfRef has rank 9, allowed: 0-8 \(ops-math/math/ones_like"),
    "rank of a mask": (lambda: attention(1, 2, 8, 16, mask=(1, 8, 8)), "attenMaskOptional has rank 3, allowed: 0,2,4"),
    "form of a mask": (lambda: attention(1, 2, 8, 16, mask=(1, 1, 8, 4)), r"attenMaskOptional is \[1,1,8,4\], allowed"),
    "head dimension": (lambda: attention(1, 2, 8, 776), r"query\[3\] is 776, allowed: .* <= 768"),
    "attribute": (lambda: attention(1, 8, 4, 16, layout="BSND"), "headNum is 2, allowed: .* headNum == query"),
    "AI CPU": (lambda: made(2, 3, dtype=torch.uint8).flip(-1), "aclnnFlip: self is UINT8 and goes to the AI CPU"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named(name: str):
    call, message = FAULTS[name]
    contract()
    with pytest.raises(RuntimeError, match=message):
        call()
    judged = contract()
    assert all(len(faults({release: functions})) == 1 for release, functions in judged.items()), judged


def test_a_function_without_facts_is_counted():
    torch.atan2(made(3), made(3))
    assert contract()["8.1.RC1"]["aclnnAtan2"]["unknown"] == 1


def test_a_function_of_a_later_release_is_refused(monkeypatch: pytest.MonkeyPatch):
    graph = getattr(torch.npu, "NPUGraph", None)
    if not hasattr(graph, "register_generator_state"):
        pytest.skip("this torch_npu draws no random numbers in graphs")
    contract("strict", "8.1.RC1")
    try:
        with pytest.raises(RuntimeError, match="aclnnInplaceUniformTensor: is not in CANN 8.1.RC1, since: 8.5.0"):
            with torch.npu.graph(graph()):
                torch.rand(3, device=NPU)
    finally:
        contract("strict", "8.5.0")
    devices.check_graphs(NPU)
    monkeypatch.setattr(torch.npu.utils, "get_cann_version", lambda: "8.1.RC1")
    with pytest.raises(PivotNetError, match="--graph needs a newer CANN than 8.1.RC1"):
        devices.check_graphs(NPU)
    assert "CANN 8.1.RC1 does not document bfloat16" in devices.doubts(NPU, torch.bfloat16)[0]
    assert devices.doubts(NPU, None) == devices.doubts(torch.device("cpu"), torch.bfloat16) == []


@pytest.mark.parametrize("amp", [None, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "name", ["smoke", *(pytest.param(one, marks=pytest.mark.full) for one in ("swint", "res50", "effb0"))]
)
@pytest.mark.usefixtures("within_contract")
def test_training_and_evaluation_are_within(name: str, amp: torch.dtype | None, tmp_path: Path):
    trained = trainer(small(name, dropout=0.1, drop_connect=0.1), NPU, tmp_path, amp=amp)
    losses(trained, 2)
    moved = batch(trained.config).to(NPU)
    with torch.no_grad():
        trained.model.eval()(moved.images, moved.reference_points, moved.reference_valid, final_only=True)


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


def test_strict_mode_refuses_what_is_not_simulated_cpu_fallbacks_and_float64():
    with pytest.raises(RuntimeError, match="aclnnFmodTensor is not simulated"):
        torch.fmod(torch.ones(3, device="npu"), torch.ones(3, device="npu"))
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
