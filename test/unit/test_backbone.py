"""The backbones: shapes, stochastic depth, recomputation and running statistics, initialisation."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from pivotnet.config import ModelConfig, preset
from pivotnet.errors import PivotNetError
from pivotnet.model.backbone import build_backbone
from pivotnet.model.backbone.efficientnet import MOMENTUM
from pivotnet.model.layers import StochasticDepth, add_branch

PRESETS = ("swint", "res50", "effb0")
HOST_READS = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "item", "equal")


def build(name: str, **changes) -> nn.Module:
    torch.manual_seed(0)
    backbone = build_backbone(dataclasses.replace(preset(name).model, **changes))
    if name == "res50":  # its residual branches start at zero; give them something to do
        for key, parameter in backbone.named_parameters():
            if key.endswith("bn3.weight"):
                nn.init.constant_(parameter, 0.5)
    return backbone


def images(count: int, height: int, width: int) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def step(backbone: nn.Module, x: torch.Tensor) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Features and gradients of one training step, from the same random numbers."""
    torch.manual_seed(2)
    backbone.zero_grad()
    features = backbone(x)
    sum(feature.square().mean() for feature in features).backward()
    return [f.detach() for f in features], {k: p.grad.clone() for k, p in backbone.named_parameters()}


@pytest.mark.parametrize("name", [*PRESETS, "smoke"])
def test_feature_sizes(name):
    model = preset(name).model
    small = dataclasses.replace(model, image_size=(128, 224))
    with torch.no_grad():
        features = build(name).eval()(images(2, *small.image_size))
    for feature, channels, size in zip(features, model.backbone_channels, small.feature_sizes):
        assert tuple(feature.shape) == (2, channels, *size)
        assert feature.is_contiguous()


@pytest.mark.parametrize("name", PRESETS)
def test_batched_equals_single(name):
    backbone = build(name).eval()
    x = images(3, 64, 96)
    with torch.no_grad():
        batched = backbone(x)
        singles = [backbone(image[None]) for image in x]
    for level, feature in enumerate(batched):
        assert_close(feature, torch.cat([single[level] for single in singles]), rtol=1e-4, atol=1e-5)


def test_unknown_backbone():
    with pytest.raises(PivotNetError, match="'vgg'.*swint, res50, effb0"):
        build_backbone(ModelConfig(backbone="vgg"))


def test_wrong_channels():
    with pytest.raises(PivotNetError, match=r"\(384, 768\).*res50.*\(1024, 2048\)"):
        build_backbone(ModelConfig(backbone="res50"))


@pytest.mark.parametrize("name", PRESETS)
def test_no_host_reads(name):
    """Neither the forward nor the backward pass waits for a value or makes a shape from one."""
    reads = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.overloadpacket.__name__ in HOST_READS or function is torch.ops.aten.index.Tensor:
                reads.append(str(function))
            return function(*args, **(kwargs or {}))

    backbone = build(name, checkpointing=True)
    x = images(2, 64, 96)
    step(backbone, x)  # constants of this size are made once
    with Watch():
        step(backbone, x)
    assert reads == []


@pytest.mark.parametrize("name", PRESETS)
def test_checkpointing_changes_nothing(name):
    """Not the features, not the gradients, not the running statistics, over two steps with stochastic depth."""
    kept, recomputed = build(name, checkpointing=False), build(name, checkpointing=True)
    x = images(4, 64, 96)
    for _ in range(2):
        (features, gradients), (want_features, want_gradients) = step(kept, x), step(recomputed, x)
        for feature, want in zip(features, want_features):
            assert_close(feature, want, rtol=0, atol=0)
        for key, gradient in gradients.items():
            assert_close(gradient, want_gradients[key], rtol=1e-5, atol=1e-7)
    state, want_state = kept.state_dict(), recomputed.state_dict()
    for key, value in state.items():
        assert_close(value, want_state[key], rtol=1e-5, atol=1e-7, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("checkpointing", [True, False])
def test_recomputed_batch_norms_update_twice(checkpointing):
    backbone = build("effb0", checkpointing=checkpointing, drop_connect=0.0)
    seen = {}
    norm = backbone.bkb._blocks[3]._bn1
    handle = norm.register_forward_pre_hook(lambda module, inputs: seen.update(x=inputs[0].detach()))
    step(backbone, images(3, 64, 96))
    handle.remove()
    mean = seen["x"].mean((0, 2, 3))
    assert norm.num_batches_tracked == 2
    assert_close(norm.running_mean, mean * (1 - (1 - MOMENTUM) ** 2), rtol=1e-4, atol=1e-6)
    assert backbone.bkb._bn0.num_batches_tracked == 1  # the stem is not recomputed

    before = norm.running_mean.clone()
    with torch.no_grad():  # nothing will be recomputed
        backbone(images(3, 64, 96))
    assert norm.num_batches_tracked == 3
    assert_close(norm.running_mean, before * (1 - MOMENTUM) + mean * MOMENTUM, rtol=1e-4, atol=1e-6)

    backbone.eval()(images(3, 64, 96))
    assert norm.num_batches_tracked == 3


def test_replaced_batch_norms_follow_the_rule():
    """Batch norms may be swapped for synchronised ones after construction."""
    backbone = build("effb0", checkpointing=False)
    swapped = copy.deepcopy(backbone)
    for block in swapped.bkb._blocks:
        new = nn.BatchNorm2d(block._bn1.num_features, eps=block._bn1.eps, momentum=block._bn1.momentum)
        block._bn1 = new
    x = images(3, 64, 96)
    step(backbone, x)
    step(swapped, x)
    assert_close(swapped.state_dict(), backbone.state_dict())


def test_resnet_keeps_its_running_statistics():
    backbone = build("res50").train()
    before = {key: value.clone() for key, value in backbone.state_dict().items() if "running" in key or "track" in key}
    _, gradients = step(backbone, images(2, 64, 96))
    state = backbone.state_dict()
    assert all(torch.equal(state[key], value) for key, value in before.items())
    norms = [gradient for key, gradient in gradients.items() if "bn" in key]
    assert norms and all(gradient.abs().sum() > 0 for gradient in norms)
    assert backbone.bkb.training and not backbone.bkb.layer1[0].downsample[1].training


def test_stochastic_depth_statistics():
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


def test_add_branch():
    shortcut, branch = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    assert_close(add_branch(shortcut, branch, None), shortcut + branch)
    scale = torch.tensor([0.0, 2.0]).view(2, 1, 1, 1)
    result = add_branch(shortcut, branch, scale)
    assert_close(result[0], shortcut[0], rtol=0, atol=0)
    assert_close(result[1], shortcut[1] + 2 * branch[1])


@pytest.mark.parametrize("name, rate", [("swint", {"drop_path": 0.0}), ("effb0", {"drop_connect": 0.0})])
def test_rate_zero_is_deterministic(name, rate):
    backbone = build(name, **rate)
    x = images(2, 64, 96)
    with torch.no_grad():
        first, second = backbone(x), backbone(x)
    assert_close(first, second, rtol=0, atol=0)


def test_rates_rise_linearly():
    swin = build("swint", drop_path=0.3).bkb.stochastic_depth.rates
    assert swin == pytest.approx([0.3 * block / 11 for block in range(12) for _ in range(2)])
    net = build("effb0", drop_connect=0.2).bkb
    assert net.shortcuts == [2, 4, 6, 7, 9, 10, 12, 13, 14]
    assert net.stochastic_depth.rates == pytest.approx([0.2 * block / 16 for block in net.shortcuts])


def test_initialisation():
    """Fresh weights have the distribution that upstream's have when no file is given."""
    torch.manual_seed(0)
    for name in PRESETS:
        backbone = build_backbone(preset(name).model)
        for key, module in backbone.named_modules():
            if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
                weight = 0.0 if key.endswith("bn3") else 1.0
                assert (module.weight == weight).all() and (module.bias == 0).all(), key
            elif isinstance(module, (nn.Linear, nn.Conv2d)):
                weight = module.weight
                if name == "res50":  # normal, by fan-out
                    std = math.sqrt(2 / (weight.shape[0] * weight[0, 0].numel()))
                else:  # uniform in +-1/sqrt(fan-in)
                    bound = 1 / math.sqrt(weight[0].numel())
                    std = bound / math.sqrt(3)
                    assert bound * 0.9 < weight.abs().max() <= bound
                    assert module.bias is None or module.bias.abs().max() <= bound
                assert weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(weight.numel())), key
            elif hasattr(module, "relative_position_bias_table"):
                assert module.relative_position_bias_table.std().item() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize("name", PRESETS)
def test_autocast(name):
    """bfloat16 where autocast wants it: features stay near, every parameter gets a gradient."""
    backbone = build(name)
    x = images(2, 64, 96)
    with torch.no_grad():
        want = backbone.eval()(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = backbone(x)
    for feature, exact in zip(features, want):
        assert (feature.float() - exact).norm() < 0.05 * exact.norm()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = backbone.train()(x)
    sum(feature.float().square().mean() for feature in features).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())
