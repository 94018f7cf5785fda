"""The network with each backbone, on small images: options, batches, precision, what is kept or made once, and weight
files, generated with the keys and shapes of the published ones.

Features, gradients, statistics (kept and recomputed, with stochastic depth) and initial weights are compared with
upstream's in test/golden.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from support.samples import Reduced
from support.small import FIELDS, small
from support.small import network as build

from pivotnet.audit.sample import random_batch
from pivotnet.config import BACKBONES, RELEASE, preset
from pivotnet.criterion.criterion import Criterion
from pivotnet.errors import PivotNetError
from pivotnet.model.backbone import build_backbone, swin
from pivotnet.model.backbone.pretrained import load_pretrained
from pivotnet.model.point_head import PointHead
from pivotnet.training.execution import MixedPrecision

BATCH = random_batch(small("smoke"), 1, 0)
ONE = (BATCH.images, BATCH.reference_points, BATCH.reference_valid)


@pytest.fixture(params=["swint", "res50", "effb0"])
def network(request):
    return build(small(request.param))


@torch.no_grad()
def test_a_batch_equals_its_samples_and_final_only_is_the_last_decoder(network):
    other = random_batch(small("smoke"), 1, 1)
    samples = [ONE, (other.images, other.reference_points, other.reference_valid)]
    together = network.eval()(*(torch.cat(parts) for parts in zip(*samples)))
    for b, own in enumerate(samples):
        alone, final = network(*own), network(*own, final_only=True)
        for name in FIELDS:
            wanted = getattr(alone, name)
            torch.testing.assert_close(getattr(together, name)[:, b : b + 1], wanted, rtol=1e-4, atol=1e-4)
            last = None if name in ("masks", "semantic_logits") else wanted[-1:]
            torch.testing.assert_close(getattr(final, name), last)


def test_every_parameter_gets_a_gradient_and_bfloat16_stays_near_float32(network):
    """Distributed training waits for every parameter's gradient."""
    with torch.no_grad():
        exact = network.eval()(*ONE)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = network(*ONE)
    assert (exact.points - rounded.points).abs().max() < 0.05
    assert (exact.object_logits - rounded.object_logits).abs().max() < 0.3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predictions = network.train()(*ONE)
    outputs = [getattr(predictions, name) for name in FIELDS]
    assert all(tensor.dtype == torch.float32 for tensor in outputs)
    sum(tensor.square().mean() for tensor in outputs).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize(("name", "checkpointing"), [("smoke", True), ("swint", False), ("swint", True)])
def test_weights_that_are_cast_together_give_what_autocast_gives(name, checkpointing):
    config = small(name, checkpointing=checkpointing, dropout=0.1)
    model, found = build(config).train(), []
    for network in (model, MixedPrecision(model, torch.bfloat16)):
        torch.manual_seed(0)
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=network is model):
            predictions = network(*ONE)
        total = Criterion(config)(predictions, BATCH.targets).total
        total.backward()
        found.append({"loss": total.detach(), **{key: value.grad for key, value in model.named_parameters()}})
    torch.testing.assert_close(*found, rtol=0, atol=0)


@pytest.mark.parametrize("recompute", [False, True])
def test_checkpointing_keeps_no_features_of_pixels(recompute):
    config = small("smoke", checkpointing=recompute)
    head, kept = PointHead(config.model, config.map), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (kept.append(tensor.numel()), tensor)[1], lambda x: x):
        head.mean_coordinate_features()
    assert any(numel > head.coordinates.numel() for numel in kept) != recompute


@pytest.mark.parametrize("shifted", [False, True])
def test_gradients_of_window_attention_and_of_gelu_are_those_of_differences(shifted):
    qkv, bias, *gelu_linear = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in [(3, 2, 2, 1, 49, 3), (1, 49, 49), (2, 3, 8), (4, 8), (4,)]
    )
    mask = swin.shift_mask(14, 7, torch.float64, torch.device("cpu")) if shifted else None
    assert torch.autograd.gradcheck(swin._Attend.apply, (qkv, bias, mask, 0.5), fast_mode=True)
    assert torch.autograd.gradcheck(swin._GeluLinear.apply, gelu_linear)


def test_shift_mask_is_made_once_and_survives_inference_mode():
    swin.shift_mask.cache_clear()
    with torch.inference_mode():
        first = swin.shift_mask(14, 7, torch.float32, torch.device("cpu"))
    assert swin.shift_mask(14, 7, torch.float32, torch.device("cpu")) is first
    assert not first.is_inference()


# what the published networks have besides the backbone, as far as names decide
OTHERS = {
    "swint": "backbone.norm0.weight backbone.norm1.bias decode_head.conv_seg.weight auxiliary_head.conv_seg.bias",
    "res50": "fc.weight fc.bias",
    "effb0": "_conv_head.weight _bn1.weight _bn1.running_var _bn1.num_batches_tracked _fc.weight _fc.bias",
}


def backbone_of(name: str) -> torch.nn.Module:
    return build_backbone(preset(name).model)


def write(name: str, folder: Path, counters: bool = True, **changes: torch.Tensor | None) -> Path:
    """A generated file: random tensors under the published keys, some of them changed, or left out."""
    state: dict[str, Any] = {key: torch.zeros(2) for key in OTHERS[name].split()}
    for key, value in backbone_of(name).bkb.state_dict().items():
        if counters or not key.endswith("num_batches_tracked"):
            random = torch.randn(value.shape) if value.is_floating_point() else value
            state[BACKBONES[name].prefix + key] = random
    state = {key: value for key, value in {**state, **changes}.items() if value is not None}
    path = folder / BACKBONES[name].weight_file
    torch.save({"state_dict": state, "meta": {"epoch": 1}} if name == "swint" else state, path)
    return path


@pytest.mark.parametrize("name, counters", [("swint", True), ("res50", True), ("res50", False), ("effb0", True)])
def test_published_keys(name, counters, tmp_path):
    path = write(name, tmp_path, counters)
    content = torch.load(path, weights_only=True)
    state = content.get("state_dict", content)
    backbone = backbone_of(name)
    load_pretrained(backbone, name, path if counters else path.parent)  # a file, or its folder
    for key, value in backbone.bkb.state_dict().items():
        if counters or not key.endswith("num_batches_tracked"):
            assert torch.equal(value, state[BACKBONES[name].prefix + key]), key


def fails(name: str, path: Path, *words: str) -> None:
    """Loading fails with one line that has those words, and changes nothing."""
    backbone = backbone_of(name)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(PivotNetError) as error:
        load_pretrained(backbone, name, path)
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in (str(path), *words)), message
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_files_that_are_missing_cut_or_of_another_backbone(tmp_path):
    path = tmp_path / "resnet50-0676ba61.pth"
    fails("res50", path, "is missing", RELEASE + "resnet50-0676ba61.pth", "give no weight file")
    path = write("effb0", tmp_path)
    fails("swint", path, "does not hold the weights of swint", "missing", "upernet_swin_tiny")
    fails("res50", path, "does not hold the weights of res50", "missing", "unexpected", "resnet50-0676ba61.pth")
    path.write_bytes(path.read_bytes()[:10000])
    fails("effb0", path, "cannot be read", "download it again")
    changes = {"_conv_stem.weight": None, "_blocks.16.x": torch.zeros(1), "_bn0.bias": torch.zeros(33)}
    wrong = "1 missing (such as _conv_stem.weight), 1 unexpected (such as _blocks.16.x), 1 of another shape (such as "
    fails("effb0", write("effb0", tmp_path, **changes), f"{wrong}_bn0.bias)")


@pytest.mark.parametrize("thing", [Reduced(os.system, ("true",)), [1, 2], "text"])
def test_something_else(thing, tmp_path):
    path = tmp_path / "efficientnet-b0-355c32eb.pth"
    torch.save(thing, path)
    fails("effb0", path)
    path.write_bytes(pickle.dumps(thing))
    fails("effb0", path)
