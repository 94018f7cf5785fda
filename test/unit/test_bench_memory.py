"""The benchmarks' bytes of tensors."""

from __future__ import annotations

import torch
from benchmarks.memory import bytes_kept, peak_of_tensors

MIB = 2**20


def test_what_is_freed_before_does_not_count() -> None:
    before = torch.zeros(64 * MIB // 4)
    held = []

    def run() -> None:
        for _ in range(3):
            torch.zeros(8 * MIB // 4)
        held.append(torch.zeros(4 * MIB // 4))
        torch.zeros(16 * MIB // 4)

    assert 20 * MIB <= peak_of_tensors(run) < 21 * MIB
    assert before.numel() and held


def test_gradients_and_activations_count() -> None:
    leaf = torch.ones(4 * MIB // 4, requires_grad=True)
    # exp keeps its result (4 MiB), beside which its gradient and that of the leaf come to life
    assert 8 * MIB <= peak_of_tensors(lambda: leaf.exp().sum().backward()) < 17 * MIB


def test_weights_buffers_and_moments_are_kept() -> None:
    network = torch.nn.BatchNorm1d(10)
    optimizer = torch.optim.AdamW(network.parameters())
    alone = 4 * 40 + 8  # float32 weight, bias, two statistics; an int64 count
    assert bytes_kept(network, optimizer) == alone
    network(torch.randn(4, 10)).sum().backward()
    optimizer.step()
    assert bytes_kept(network, optimizer) == alone + 2 * (2 * 4 * 10 + 4)  # two moments and a step count a parameter
