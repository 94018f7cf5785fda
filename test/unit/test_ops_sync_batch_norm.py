"""Synchronised batch norm of two processes against BatchNorm2d on the joined batch."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import nn

from pivotnet.model.ops.sync_batch_norm import SyncBatchNorm, convert_sync_batch_norm

CHANNELS = 5
SIZES = (2, 3)  # samples of each rank: the ranks may differ
RANKS = len(SIZES)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.BatchNorm2d(CHANNELS, momentum=0.3))
    nn.init.normal_(layers[0].weight)
    nn.init.normal_(layers[0].bias)
    return layers


def data(offset: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (sum(SIZES), CHANNELS, 6, 7)
    return torch.randn(shape, generator=generator) + offset, torch.randn(shape, generator=generator)


def observe(layers: nn.Module, images: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    """Two steps, so that the second starts from moved running statistics."""
    seen = {}
    for step in range(2):
        leaf = images.clone().requires_grad_()
        output = layers(leaf)
        layers.zero_grad()
        (output * weights).sum().backward()
        seen[f"output{step}"], seen[f"image gradient{step}"] = output.detach(), leaf.grad
        for key, parameter in layers.named_parameters():
            seen[f"{key} gradient{step}"] = parameter.grad.clone()
        for key, buffer in layers.named_buffers():
            seen[f"{key}{step}"] = buffer.clone()
    return seen


def work(rank: int, folder: str, offset: float) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    layers = convert_sync_batch_norm(network())
    first = sum(SIZES[:rank])
    images, weights = (tensor[first : first + SIZES[rank]] for tensor in data(offset))
    torch.save(observe(layers, images, weights), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_two_processes_equal_the_joined_batch(tmp_path, offset):
    multiprocessing.spawn(work, args=(str(tmp_path), offset), nprocs=RANKS)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]
    images, weights = data(offset)
    joined = observe(network().double(), images.double(), weights.double())
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


def test_one_process_is_batch_norm():
    plain = network()
    converted = convert_sync_batch_norm(copy.deepcopy(plain))
    images, weights = data(0.0)
    first, second = observe(plain, images, weights), observe(converted, images, weights)
    for key, tensor in first.items():
        torch.testing.assert_close(second[key], tensor, rtol=0, atol=0)


def test_conversion_keeps_tensors_options_and_mode():
    frozen = nn.BatchNorm2d(4, eps=1e-3, momentum=0.01).eval()
    frozen.weight.requires_grad_(False)
    outer = nn.Sequential(nn.Sequential(frozen), nn.BatchNorm2d(2, affine=False), nn.LayerNorm(3))
    converted = convert_sync_batch_norm(outer)
    inner = converted[0][0]
    assert isinstance(inner, SyncBatchNorm) and isinstance(converted[1], SyncBatchNorm)
    assert type(converted[2]) is nn.LayerNorm
    assert inner.weight is frozen.weight and inner.running_var is frozen.running_var
    assert (inner.eps, inner.momentum, inner.training) == (1e-3, 0.01, False)
    assert converted[1].weight is None and converted[1].training
    assert list(converted.state_dict()) == list(outer.state_dict())
    assert convert_sync_batch_norm(converted)[0][0] is inner  # nothing is converted twice
