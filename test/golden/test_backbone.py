"""The backbones against recordings of upstream's: names, features, gradients, running statistics."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import rule
import torch
from backbone.record import observe

from pivotnet.config import preset
from pivotnet.model.backbone import build_backbone

SMALL = Path(__file__).parent / "backbone"
PRESETS = ("swint", "res50", "effb0")
PREFIX = "im_backbone."
# steps of the subsampled features in golden_forward_<preset>.npz
FULL_STEPS = {"swint": ((8, 4, 4), (16, 2, 2)), "res50": ((16, 4, 4), (32, 2, 2)), "effb0": ((4, 4, 4), (8, 2, 2))}


def build(name: str, **changes):
    return build_backbone(dataclasses.replace(preset(name).model, **changes))


@pytest.mark.parametrize("name", PRESETS)
def test_names_and_shapes(name):
    recorded = json.loads((rule.recordings() / f"state_dict_{name}.json").read_text())["state_dict"]
    want = [(key, tuple(entry["shape"])) for key, entry in recorded.items() if key.startswith(PREFIX)]
    # the order matters too: an optimiser's state knows parameters by number
    assert [(PREFIX + key, tuple(value.shape)) for key, value in build(name).state_dict().items()] == want


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("name", PRESETS)
def test_small_images(name, checkpointing):
    """One evaluation and one training step, stochastic depth included: the seed leaves out the same branches."""
    with np.load(SMALL / f"small_{name}.npz", allow_pickle=False) as arrays:
        recorded = {key: arrays[key] for key in arrays.files}
    backbone = build(name, checkpointing=checkpointing)
    observed = observe(backbone, backbone, name)
    assert observed.keys() == {key for key in recorded if not key.startswith("noise/")}
    for key, value in observed.items():
        want = recorded[key]
        if key.endswith("keys"):
            assert value.tolist() == want.tolist()
            continue
        noise = recorded[f"noise/{key}"]  # of float32 against float64
        if "features" in key:
            assert np.abs(value - want).max() <= 4 * noise
        else:
            norms = want[:, :1]
            assert (np.abs(value - want) <= 4 * noise[:, None] + 1e-5 * norms + 1e-6 * norms.max()).all()


@pytest.mark.full
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", PRESETS)
def test_full_size(name, mode):
    recorded = rule.recording(f"golden_forward_{name}.npz")
    noise = json.loads((rule.recordings() / f"noise_floor_fp32_vs_fp64_{name}.json").read_text())
    backbone = build(name, drop_path=0.0, drop_connect=0.0)
    rule.fill(backbone.state_dict(), PREFIX)
    backbone.train(mode == "train")
    images = rule.images(int(recorded["seed"]))
    np.testing.assert_array_equal(images.flatten()[:8].numpy(), recorded["image_first8"])
    with torch.no_grad():
        features = backbone(images.flatten(0, 1))
    for level, (feature, (channels, rows, columns)) in enumerate(zip(features, FULL_STEPS[name])):
        key = f"{mode}/bkb_features/{level}"
        assert tuple(feature.shape) == tuple(recorded[f"{mode}/bkb_features_full_shape/{level}"])
        error = np.abs(feature[:, ::channels, ::rows, ::columns].numpy() - recorded[key]).max()
        assert error <= 4 * noise[key]["max_abs_diff"]
    state = {PREFIX + key: value for key, value in backbone.state_dict().items()}
    after = [key for key in recorded if key.startswith(f"{mode}/after/{PREFIX}")]
    assert after or not (name == "effb0" and mode == "train")
    for key in after:
        np.testing.assert_allclose(state[key[len(f"{mode}/after/") :]].numpy(), recorded[key], rtol=1e-5, atol=1e-6)
