"""Weight files of the backbones, generated with the keys and shapes of the published ones."""

from __future__ import annotations

import pickle

import pytest
import torch

from pivotnet.config import BACKBONES, RELEASE, preset
from pivotnet.errors import PivotNetError
from pivotnet.model.backbone import build_backbone
from pivotnet.model.backbone.pretrained import load_pretrained

PRESETS = ("swint", "res50", "effb0")
# what the published networks have besides the backbone, as far as names decide
OTHERS = {
    "swint": {
        "backbone.norm0.weight": (96,),
        "backbone.norm0.bias": (96,),
        "backbone.norm1.weight": (192,),
        "backbone.norm1.bias": (192,),
        "decode_head.conv_seg.weight": (150, 512, 1, 1),
        "auxiliary_head.conv_seg.bias": (150,),
    },
    "res50": {"fc.weight": (1000, 2048), "fc.bias": (1000,)},
    "effb0": {
        "_conv_head.weight": (1280, 320, 1, 1),
        "_bn1.weight": (1280,),
        "_bn1.running_var": (1280,),
        "_bn1.num_batches_tracked": (),
        "_fc.weight": (1000, 1280),
        "_fc.bias": (1000,),
    },
}


def backbone_of(name: str) -> torch.nn.Module:
    return build_backbone(preset(name).model)


def content(name: str, counters: bool = True) -> dict:
    """The state dict of a generated file, under the published keys."""
    generator = torch.Generator().manual_seed(3)
    prefix = BACKBONES[name].prefix
    state = {}
    for key, value in backbone_of(name).bkb.state_dict().items():
        if value.is_floating_point():
            state[prefix + key] = torch.randn(value.shape, generator=generator)
        elif counters or not key.endswith("num_batches_tracked"):
            state[prefix + key] = value.clone()
    state.update({key: torch.zeros(shape) for key, shape in OTHERS[name].items()})
    return state


def write(name: str, folder, state: dict):
    path = folder / BACKBONES[name].weight_file
    torch.save({"state_dict": state, "meta": {"epoch": 1}} if name == "swint" else state, path)
    return path


@pytest.mark.parametrize("counters", [True, False])
@pytest.mark.parametrize("name", PRESETS)
def test_published_keys(name, counters, tmp_path):
    state = content(name, counters)
    path = write(name, tmp_path, state)
    backbone = backbone_of(name)
    load_pretrained(backbone, name, path)
    for key, value in backbone.bkb.state_dict().items():
        if counters or not key.endswith("num_batches_tracked"):
            assert torch.equal(value, state[BACKBONES[name].prefix + key]), key


def test_folder_instead_of_file(tmp_path):
    state = content("effb0")
    write("effb0", tmp_path, state)
    backbone = backbone_of("effb0")
    load_pretrained(backbone, "effb0", tmp_path)
    assert torch.equal(backbone.bkb._conv_stem.weight, state["_conv_stem.weight"])


def fails(name: str, path, *words: str) -> None:
    """Loading fails with one line that has those words, and changes nothing."""
    backbone = backbone_of(name)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(PivotNetError) as error:
        load_pretrained(backbone, name, path)
    message = str(error.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_missing_file(tmp_path):
    path = tmp_path / "resnet50-0676ba61.pth"
    fails("res50", path, "is missing", RELEASE + "resnet50-0676ba61.pth", "give no weight file")


def test_file_of_another_backbone(tmp_path):
    path = write("effb0", tmp_path, content("effb0"))
    fails("swint", path, "does not hold the weights of swint", "missing", "upernet_swin_tiny")
    fails("res50", path, "does not hold the weights of res50", "missing", "unexpected", "resnet50-0676ba61.pth")


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda state: state.pop("_conv_stem.weight"), "1 missing (such as _conv_stem.weight)"),
        (lambda state: state.update({"_blocks.16.x": torch.zeros(1)}), "1 unexpected (such as _blocks.16.x)"),
        (lambda state: state.update({"_bn0.bias": torch.zeros(33)}), "1 of another shape (such as _bn0.bias)"),
    ],
)
def test_other_tensors(change, words, tmp_path):
    state = content("effb0")
    change(state)
    fails("effb0", write("effb0", tmp_path, state), words)


def test_cut_file(tmp_path):
    path = write("effb0", tmp_path, content("effb0"))
    path.write_bytes(path.read_bytes()[:10000])
    fails("effb0", path, "cannot read", "download it again")


class Malicious:
    """Would run a command if it were unpickled."""

    def __reduce__(self):
        import os

        return os.system, ("true",)


@pytest.mark.parametrize("thing", [Malicious(), [1, 2], "text"])
def test_something_else(thing, tmp_path):
    path = tmp_path / "efficientnet-b0-355c32eb.pth"
    torch.save(thing, path)
    fails("effb0", path, "efficientnet-b0-355c32eb.pth")
    path.write_bytes(pickle.dumps(thing))
    fails("effb0", path, "efficientnet-b0-355c32eb.pth")


def test_unknown_backbone(tmp_path):
    with pytest.raises(PivotNetError, match="'vgg'.*swint, res50, effb0"):
        load_pretrained(backbone_of("effb0"), "vgg", tmp_path)
