"""What one rank of test_ops_sync_batch_norm.py does; a module of its own, so that a started process can import it."""

from __future__ import annotations

import time

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

from pivotnet.model.ops.sync_batch_norm import convert_sync_batch_norm

CHANNELS = 5
SIZES = (2, 3)  # samples of each rank: the ranks may differ
RANKS = len(SIZES)
CASES = ((0.0, False), (300.0, False), (1.0, True))  # mean of the data, whether the forward is recomputed


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


def observe(
    layers: nn.Module, images: torch.Tensor, weights: torch.Tensor, recompute: bool = False
) -> dict[str, torch.Tensor]:
    """Two steps, so that the second starts from moved running statistics."""
    seen = {}
    for step in range(2):
        leaf = images.clone().requires_grad_()
        output = checkpoint(layers, leaf, use_reentrant=False) if recompute else layers(leaf)
        layers.zero_grad()
        (output * weights).sum().backward()
        seen[f"output{step}"], seen[f"image gradient{step}"] = output.detach(), leaf.grad
        for key, parameter in layers.named_parameters():
            seen[f"{key} gradient{step}"] = parameter.grad.clone()
        for key, buffer in layers.named_buffers():
            seen[f"{key}{step}"] = buffer.clone()
    return seen


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    first = sum(SIZES[:rank])
    for number, (offset, recompute) in enumerate(CASES):
        layers = convert_sync_batch_norm(network())
        images, weights = (tensor[first : first + SIZES[rank]] for tensor in data(offset))
        torch.save(observe(layers, images, weights, recompute), f"{folder}/{number}.{rank}.pt")
    time.sleep(0.5)  # torch 2.1 may hang when the group closes right after its last collective
    dist.destroy_process_group()
