"""The backbones: batches, precision, wrong names.

Features, gradients, statistics (kept and recomputed, with stochastic depth) and initial weights are compared with
upstream's in test/golden.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pivotnet.config import ModelConfig, preset
from pivotnet.errors import PivotNetError
from pivotnet.model.backbone import build_backbone
from pivotnet.model.backbone.swin import shift_mask

PRESETS = ("swint", "res50", "effb0")


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    backbone = build_backbone(preset(name).model)
    for key, parameter in backbone.named_parameters():
        if name == "res50" and key.endswith("bn3.weight"):  # its residual branches start at zero: nothing to compare
            nn.init.constant_(parameter, 0.5)
    return backbone


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", PRESETS)
def test_batched_equals_single(name):
    model = dataclasses.replace(preset(name).model, image_size=(64, 96))
    backbone = build(name).eval()
    x = images(3)
    with torch.no_grad():
        batched, *singles = (backbone(part) for part in (x, *x.split(1)))
    for level, (feature, channels, size) in enumerate(zip(batched, model.backbone_channels, model.feature_sizes)):
        assert feature.shape == (3, channels, *size) and feature.is_contiguous()
        assert_close(feature, torch.cat([single[level] for single in singles]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "model, message",
    [
        (ModelConfig(backbone="vgg"), "'vgg'.*swint, res50, effb0"),
        (ModelConfig(backbone="res50"), r"\(384, 768\).*res50.*\(1024, 2048\)"),
    ],
)
def test_unknown_name_and_wrong_channels(model, message):
    with pytest.raises(PivotNetError, match=message):
        build_backbone(model)


@pytest.mark.parametrize("name", PRESETS)
def test_autocast(name):
    """bfloat16 where autocast wants it: features stay near, every parameter gets a gradient."""
    backbone, x = build(name), images(2)
    with torch.no_grad():
        want = backbone.eval()(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = backbone(x)
    for feature, exact in zip(features, want):
        assert (feature.float() - exact).norm() < 0.05 * exact.norm()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sum(feature.float().square().mean() for feature in backbone.train()(x)).backward()
    assert all(parameter.grad.isfinite().all() for parameter in backbone.parameters())


def test_shift_mask_is_made_once_and_survives_inference_mode():
    shift_mask.cache_clear()
    with torch.inference_mode():
        first = shift_mask(14, 7, torch.device("cpu"))
    assert shift_mask(14, 7, torch.device("cpu")) is first
    assert not first.is_inference()
