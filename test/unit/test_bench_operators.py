"""The operator counter of the benchmarks: what counts, in which phase, and what counts as one."""

from __future__ import annotations

import pytest
import torch
from benchmarks.operators import OperatorCounter
from torch import Tensor


def test_views_are_left_out_and_phases_kept_apart() -> None:
    matrix = torch.ones(4, 6)
    with OperatorCounter() as counter:
        counter.close("nothing")
        flat = matrix.t()[1:].unsqueeze(0).expand(3, 5, 4).view(3, 5, 4).detach()
        counter.close("views")
        (flat + 1).exp()
        counter.close("arithmetic")
    result = counter.result()
    assert result["by_phase"] == {"nothing": 0, "views": 0, "arithmetic": 2}
    assert result["total"] == 2
    # add reads 60 broadcast floats and writes 60, exp the same
    assert result["bytes"]["arithmetic"] == 4 * 60 * 4


def test_gradients_are_counted() -> None:
    leaf = torch.ones(3, requires_grad=True)
    with OperatorCounter() as counter:
        loss = (leaf * 2).sum()
        counter.close("forward")
        loss.backward()
        counter.close("backward")
    phases = counter.result()["by_phase"]
    assert phases["forward"] == 2
    assert phases["backward"] >= 1


def test_a_kernel_counts_once_each_way_and_computes_the_same() -> None:
    def chain(a: Tensor, b: Tensor, times: int) -> Tensor:
        for _ in range(times):
            a = (a * b).sin() + b
        return a

    first = [torch.randn(5, generator=torch.Generator().manual_seed(k), dtype=torch.float64) for k in range(2)]
    plain = [tensor.clone().requires_grad_() for tensor in first]
    wrapped = [tensor.clone().requires_grad_() for tensor in first]
    chain(*plain, 4).sum().backward()
    with OperatorCounter() as counter:
        result = counter.as_kernel("chain", chain, 2)(*wrapped, 4)
        counter.close("forward")
        result.backward(torch.ones_like(result).detach())
        counter.close("backward")

    assert counter.phases["forward"] == {"chain": 1}
    assert counter.phases["backward"]["chain backward"] == 1
    for mine, theirs in zip(wrapped, plain):
        assert mine.grad is not None and theirs.grad is not None
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_an_error_inside_a_kernel_leaves_the_counter_usable() -> None:
    def fail(tensor: Tensor) -> Tensor:
        raise ValueError("no")

    with OperatorCounter() as counter:
        with pytest.raises(ValueError):
            counter.whole("fail", fail, torch.ones(1))
        torch.ones(2).exp()
        counter.close("after")
    assert counter.phases["after"]["exp"] == 1
