"""The backbones against recordings of upstream's: names, features, gradients, running statistics."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import rule
from backbone.record import observe

from pivotnet.config import preset
from pivotnet.model.backbone import build_backbone

SMALL = Path(__file__).parent / "backbone"
PRESETS = ("swint", "res50", "effb0")
PREFIX = "im_backbone."


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
