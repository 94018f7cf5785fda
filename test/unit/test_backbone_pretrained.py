"""Weight files of the backbones, generated with the keys and shapes of the published ones."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from pivotnet.config import BACKBONES, RELEASE, preset
from pivotnet.errors import PivotNetError
from pivotnet.model.backbone import build_backbone
from pivotnet.model.backbone.pretrained import load_pretrained

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


class Malicious:
    """Would run a command if it were unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("true",)


@pytest.mark.parametrize("thing", [Malicious(), [1, 2], "text"])
def test_something_else(thing, tmp_path):
    path = tmp_path / "efficientnet-b0-355c32eb.pth"
    torch.save(thing, path)
    fails("effb0", path)
    path.write_bytes(pickle.dumps(thing))
    fails("effb0", path)
