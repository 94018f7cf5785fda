"""Starting weights of the backbones, read from the public files that upstream starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike

RELEASE = "https://github.com/wenjie710/PivotNet/releases/download/v1.0/"


@dataclass(frozen=True)
class WeightFile:
    """What a file is called and how its keys become those of ``Backbone.bkb``."""

    name: str
    prefix: str = ""  # of the backbone's keys, taken off; keys without it belong to other parts of the file's network
    dropped: tuple[str, ...] = ()  # beginnings of keys that the backbone has no use for


WEIGHT_FILES = {
    # a semantic segmentation network; norm0 and norm1 belong to features that are not used here
    "swint": WeightFile(
        "upernet_swin_tiny_patch4_window7_512x512.pth", prefix="backbone.", dropped=("norm0.", "norm1.")
    ),
    "res50": WeightFile("resnet50-0676ba61.pth", dropped=("fc.",)),
    "effb0": WeightFile("efficientnet-b0-355c32eb.pth", dropped=("_conv_head.", "_bn1.", "_fc.")),
}


def load_pretrained(backbone: nn.Module, name: str, path: PathLike) -> None:
    """Load the weight file of a backbone; either all of its weights are loaded or none.

    Args:
        backbone: what ``build_backbone`` returned.
        name: swint, res50 or effb0.
        path: the file, or the folder in which it lies under its published name (``WEIGHT_FILES``).

    Raises:
        PivotNetError: unknown name, file missing or unreadable, or its tensors are not those of this backbone.
    """
    if name not in WEIGHT_FILES:
        raise PivotNetError(f"no weight file is known for backbone {name!r}: choose one of {', '.join(WEIGHT_FILES)}")
    kind = WEIGHT_FILES[name]
    source = Path(path)
    if source.is_dir():
        source = source / kind.name
    expected = backbone.get_submodule("bkb").state_dict()
    weights = _select(_read(source, kind), kind, expected)

    # files older than the counters of batch norm come without them
    counters = {key: value for key, value in expected.items() if key.endswith("num_batches_tracked")}
    weights = {**counters, **weights}
    missing = expected.keys() - weights.keys()
    unexpected = weights.keys() - expected.keys()
    reshaped = {key for key in expected.keys() & weights.keys() if weights[key].shape != expected[key].shape}
    wrong = [
        f"{len(keys)} {what} (such as {min(keys)})"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if keys
    ]
    if wrong:
        raise PivotNetError(
            f"{source} does not hold the weights of {name}: of {len(expected)} tensors {', '.join(wrong)}; "
            f"expected {kind.name} from {RELEASE + kind.name}"
        )
    backbone.get_submodule("bkb").load_state_dict(weights)


def _read(source: Path, kind: WeightFile) -> dict[str, Any]:
    """The state dict of a file, which may be wrapped in a dict of other information."""
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise PivotNetError(
            f"{source} is missing: download it from {RELEASE + kind.name}, "
            "or give no weight file to start with a random backbone (it then learns slower and less)"
        ) from None
    except Exception as error:  # torch raises errors of many kinds for files that are cut, or are something else
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PivotNetError(
            f"cannot read {source} ({reason}): expected {kind.name}; download it again from {RELEASE + kind.name}"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise PivotNetError(f"{source} holds no dict of tensors: expected {kind.name} from {RELEASE + kind.name}")
    return state


def _select(state: dict[str, Any], kind: WeightFile, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's tensors under the names of ``Backbone.bkb``."""
    named = {key[len(kind.prefix) :]: value for key, value in state.items() if str(key).startswith(kind.prefix)}
    return {
        key: value
        for key, value in named.items()
        if isinstance(value, Tensor) and (key in expected or not key.startswith(kind.dropped))
    }
