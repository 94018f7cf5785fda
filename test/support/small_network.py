"""A network small enough for milliseconds, with a stand-in for the backbones, which have tests of their own."""

from __future__ import annotations

import dataclasses
from unittest import mock

import torch
from torch import Tensor, nn

from pivotnet.config import MapConfig, preset
from pivotnet.model import pivotnet as network_module
from pivotnet.model.pivotnet import PivotNet

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
    """Features of strides 16 and 32; with batch norms, as the real ones have."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3, width, stride, stride, bias=False), nn.BatchNorm2d(width), nn.ReLU())
            for width, stride in zip(MODEL.backbone_channels, (16, 32))
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        return [level(images) for level in self.levels]


def small_network() -> PivotNet:
    """Always the same weights, moved away from their start, where all queries sample the same points."""
    torch.manual_seed(0)
    with mock.patch.object(network_module, "build_backbone", lambda model: Backbone()):
        network = PivotNet(MODEL, MAP)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return network


def network_inputs(batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, reference points and their validity."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 6, 3, *MODEL.image_size, generator=generator)
    points = torch.rand(batch, 32, 2, generator=generator)
    return images, points, torch.rand(batch, 32, generator=generator) < 0.7
