"""What one rank of test_model_ranks.py does; a module of its own, so that a started process can import it."""

from __future__ import annotations

import dataclasses
import time

import torch
import torch.distributed as dist
from torch import nn

from pivotnet.config import MapConfig, preset
from pivotnet.model import pivotnet as network_module
from pivotnet.model.ops.sync_batch_norm import convert_sync_batch_norm
from pivotnet.model.pivotnet import PivotNet
from pivotnet.structures import Predictions

RANKS = 2
MAP = MapConfig(max_points=(3, 2, 4), num_queries=(4, 2, 3))
MODEL = dataclasses.replace(
    preset("smoke").model,
    backbone_channels=(12, 20),
    image_size=(64, 96),
    hidden=32,
    heads=4,
    bev_size=(8, 4),
    bev_feedforward=32,
    line_feedforward=32,
    point_features=8,
    head_hidden=16,
    mask_stride=10,
)


class Backbone(nn.Module):
    """Stands in for the real ones; with batch norms, as they have."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3, width, stride, stride, bias=False), nn.BatchNorm2d(width), nn.ReLU())
            for width, stride in zip(MODEL.backbone_channels, (16, 32))
        )

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [level(images) for level in self.levels]


def build() -> nn.Module:
    network_module.build_backbone = lambda model: Backbone()
    torch.manual_seed(0)
    return convert_sync_batch_norm(PivotNet(MODEL, MAP)).train()


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(RANKS, 6, 3, *MODEL.image_size, generator=generator)
    return images, torch.rand(RANKS, 32, 2, generator=generator), torch.rand(RANKS, 32, generator=generator) < 0.7


def observe(network: nn.Module, batch: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
    """Outputs, gradients of the mean over the samples of a function of them, running statistics."""
    predictions: Predictions = network(*batch)
    names = ("object_logits", "points", "point_logits", "masks", "semantic_logits")
    outputs = {f"output {name}": getattr(predictions, name) for name in names}
    sum(output.square().mean() for output in outputs.values()).backward()
    seen = {name: output.detach() for name, output in outputs.items()}
    seen.update({f"gradient {key}": parameter.grad for key, parameter in network.named_parameters()})
    seen.update({f"buffer {key}": buffer.clone() for key, buffer in network.named_buffers() if "running" in key})
    return seen


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    torch.save(observe(build(), tuple(tensor[rank : rank + 1] for tensor in inputs())), f"{folder}/{rank}.pt")
    time.sleep(0.5)  # torch 2.1 may hang when the group closes right after its last collective
    dist.destroy_process_group()
