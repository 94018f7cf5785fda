"""The backbones: batches, stochastic depth, recomputation and running statistics, windows of any size.

Features, gradients, statistics and initial weights are compared with upstream's in test/golden.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from pivotnet.config import ModelConfig, preset
from pivotnet.errors import PivotNetError
from pivotnet.model.backbone import build_backbone
from pivotnet.model.backbone.efficientnet import MOMENTUM
from pivotnet.model.backbone.swin import SHIFT, WINDOW, pad_and_shift, shift_mask, unshift_and_crop
from pivotnet.model.layers import StochasticDepth, add_branch

PRESETS = ("swint", "res50", "effb0")


def build(name: str, **changes) -> nn.Module:
    torch.manual_seed(0)
    backbone = build_backbone(dataclasses.replace(preset(name).model, **changes))
    if name == "res50":  # its residual branches start at zero; give them something to do
        for key, parameter in backbone.named_parameters():
            if key.endswith("bn3.weight"):
                nn.init.constant_(parameter, 0.5)
    return backbone


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def step(backbone: nn.Module, x: torch.Tensor) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Features and gradients of one training step, from the same random numbers."""
    torch.manual_seed(2)
    backbone.zero_grad()
    features = backbone(x)
    sum(feature.float().square().mean() for feature in features).backward()
    return [f.detach() for f in features], {k: p.grad.clone() for k, p in backbone.named_parameters()}


@pytest.mark.parametrize("name", PRESETS)
def test_batched_equals_single(name):
    model = dataclasses.replace(preset(name).model, image_size=(64, 96))
    backbone = build(name).eval()
    x = images(3)
    with torch.no_grad():
        batched = backbone(x)
        singles = [backbone(image[None]) for image in x]
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
def test_checkpointing_changes_nothing(name):
    """Not the features, not the gradients, not the running statistics, over two steps with stochastic depth."""
    kept, recomputed = build(name, checkpointing=False), build(name, checkpointing=True)
    before = {key: buffer.clone() for key, buffer in kept.named_buffers()}
    x = images(4)
    for _ in range(2):
        (features, gradients), (want_features, want_gradients) = step(kept, x), step(recomputed, x)
        assert_close(features, want_features, rtol=0, atol=0)
        assert_close(gradients, want_gradients, rtol=1e-5, atol=1e-7)
    assert_close(kept.state_dict(), recomputed.state_dict(), rtol=1e-5, atol=1e-7)
    if name == "res50":  # its batch norms stay in evaluation mode, but their weights learn
        assert_close(dict(kept.named_buffers()), before, rtol=0, atol=0)
        assert all(gradient.any() for key, gradient in gradients.items() if "bn" in key)


@pytest.mark.parametrize("checkpointing", [True, False])
def test_recomputed_batch_norms_update_twice(checkpointing):
    backbone = build("effb0", checkpointing=checkpointing, drop_connect=0.0)
    seen = {}
    norm = backbone.bkb._blocks[3]._bn1
    handle = norm.register_forward_pre_hook(lambda module, inputs: seen.update(x=inputs[0].detach()))
    step(backbone, images(3))
    handle.remove()
    mean = seen["x"].mean((0, 2, 3))
    assert norm.num_batches_tracked == 2
    assert_close(norm.running_mean, mean * (1 - (1 - MOMENTUM) ** 2), rtol=1e-4, atol=1e-6)
    assert backbone.bkb._bn0.num_batches_tracked == 1  # the stem is not recomputed

    before = norm.running_mean.clone()
    with torch.no_grad():  # nothing will be recomputed
        backbone(images(3))
    assert norm.num_batches_tracked == 3
    assert_close(norm.running_mean, before * (1 - MOMENTUM) + mean * MOMENTUM, rtol=1e-4, atol=1e-6)

    backbone.eval()(images(3))
    assert norm.num_batches_tracked == 3


def test_stochastic_depth():
    depth = StochasticDepth([0.0, 0.2, 0.5])
    torch.manual_seed(0)
    none, low, high = depth(20000)
    assert none is None
    for scale, rate in ((low, 0.2), (high, 0.5)):
        assert tuple(scale.shape) == (20000, 1, 1, 1)
        values, counts = scale.unique(return_counts=True)
        assert_close(values, torch.tensor([0.0, 1 / (1 - rate)]))
        assert counts[0].item() / 20000 == pytest.approx(rate, abs=0.02)
    assert depth.eval()(3) == [None, None, None]
    assert StochasticDepth([0.0, 0.0])(3) == [None, None]

    shortcut, branch = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    assert_close(add_branch(shortcut, branch, None), shortcut + branch)
    left_out, doubled = add_branch(shortcut, branch, torch.tensor([0.0, 2.0]).view(2, 1, 1, 1))
    assert_close(left_out, shortcut[0], rtol=0, atol=0)
    assert_close(doubled, shortcut[1] + 2 * branch[1])


def test_rates_rise_linearly():
    swin = build("swint", drop_path=0.3).bkb.stochastic_depth.rates
    assert swin == pytest.approx([0.3 * block / 11 for block in range(12) for _ in range(2)])
    net = build("effb0", drop_connect=0.2).bkb
    assert net.shortcuts == [2, 4, 6, 7, 9, 10, 12, 13, 14]
    assert net.stochastic_depth.rates == pytest.approx([0.2 * block / 16 for block in net.shortcuts])


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
        _, gradients = step(backbone.train(), x)
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize("shift", [0, SHIFT])
@pytest.mark.parametrize("length", [1, 3, 4, 7, 8, 14, 20])
def test_pad_and_shift(length, shift):
    x = torch.arange(1.0, length + 1).view(1, 1, length, 1).requires_grad_()
    moved = pad_and_shift(x, 2, shift)
    assert_close(moved, F.pad(x, (0, 0, 0, -length % WINDOW)).roll(-shift, 2), rtol=0, atol=0)
    restored = unshift_and_crop(moved, 2, shift, length)
    assert_close(restored, x, rtol=0, atol=0)
    (gradient,) = torch.autograd.grad((restored * x.detach()).sum(), x)
    assert_close(gradient, x.detach(), rtol=0, atol=0)


def test_shift_mask_is_made_once_and_survives_inference_mode():
    shift_mask.cache_clear()
    with torch.inference_mode():
        first = shift_mask(14, 7, torch.device("cpu"))
    assert shift_mask(14, 7, torch.device("cpu")) is first
    assert not first.is_inference()
