"""Checkpoints: upstream's file layout, whole or not at all, the newest N kept. A file is a dict with upstream's keys,
so that upstream's loader takes it: ``epoch`` (index of the last whole epoch), ``it`` and ``global_step`` (steps done),
``model_state`` (no ``module.`` prefix), ``optimizer_state``, ``callback``. What upstream does not store lies under
``pivotnet``: config, step, world_size, batch_size, seed, elapsed seconds and the random state of every rank.
``checksum`` is that of everything else; older files and upstream's have none."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pivotnet import device as devices
from pivotnet.config import BACKBONES, PRESETS, WEIGHT_MAGIC, Config, MapConfig
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike, atomic_write, open_file
from pivotnet.schema import Misfit, Rule, check, fields, flag, items, mapping, nullable, number, text


def _tensor(value: Any) -> None:
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        raise Misfit(f"is of type {type(value).__name__}, not a dense tensor")
    if value.device.type != "cpu" or value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise Misfit(f"has shape {tuple(value.shape)}, for which it has no bytes")
    least = 1
    for stride, size in sorted((stride, size) for stride, size in zip(value.stride(), value.shape) if size > 1):
        if stride < least:
            raise Misfit(f"has shape {tuple(value.shape)}, whose elements share their bytes")
        least = stride * size


def weight(value: Any) -> None:
    """Rule: a dense tensor of finite numbers."""
    _tensor(value)
    if not bool(torch.isfinite(value).all()):
        raise Misfit("is not finite: its training diverged; take an earlier checkpoint")


def _random_state(value: Any) -> None:
    _tensor(value)
    if value.dtype != torch.uint8 or value.shape != torch.get_rng_state().shape:
        raise Misfit("is no state of torch's generator")


def _config_rule(default: Any, name: str = "") -> Rule:
    """Of a configuration or a field of it: like its default, and no larger than a network can sensibly be."""
    if dataclasses.is_dataclass(default):
        return fields({}, {name: _config_rule(part, name) for name, part in vars(default).items()})
    if isinstance(default, bool):
        return flag
    if isinstance(default, str):
        return text
    if isinstance(default, tuple):
        return items(_config_rule(default[0], name), 1, 64)
    if isinstance(default, float):
        return number(-1e6, 1e6)
    narrow = {"layers": 64, "hidden": 1024, "features": 1024, "points": 256, "heads": 64}
    return number(1, narrow.get(name.rpartition("_")[2], 10_000), whole=True)


_COUNT, _AMOUNT = number(0, 1e12, whole=True), number(0, 1e12)
PROGRESS = {  # what a run needs to go on
    "step": _COUNT,
    "world_size": number(1, 1e6, whole=True),
    "batch_size": number(1, 1e6, whole=True),
    "seed": number(-(2**63), 2**64, whole=True),
    "elapsed": _AMOUNT,
    "rng": items(fields({"torch": _random_state, "device": nullable(_tensor)}), 1),
}
_GROUP = fields(
    {"params": items(_COUNT)},
    {"lr": number(0, 1e6), "betas": items(number(0, 1), 2, 2), "eps": number(0, 1), "weight_decay": number(0, 1e6)},
)


def _step(value: Any) -> None:
    """Rule: a number, or a tensor of one; torch has stored both."""
    if isinstance(value, Tensor):
        _average(value)
        value = value.item() if value.numel() == 1 else None
    _AMOUNT(value)


def _average(value: Any) -> None:
    weight(value)
    if value.requires_grad:
        raise Misfit("wants a gradient")


_PARAMETER_STATE = fields({"step": _step, "exp_avg": _average, "exp_avg_sq": _average})
_CHECKPOINT = fields(
    {"model_state": mapping(weight)},
    {
        "epoch": number(-1, 1e9, whole=True),
        "global_step": _COUNT,
        "optimizer_state": fields({"state": mapping(_PARAMETER_STATE, _COUNT), "param_groups": items(_GROUP, 1)}),
        "pivotnet": fields({"config": _config_rule(PRESETS["swint"])}, PROGRESS),
        "checksum": text,
    },
)

NAME = "step_{:08d}.pth"
_PATTERN = re.compile(r"step_(\d{8,})\.pth")


def checksum(state: dict[str, Any]) -> str:
    """SHA-256 of all names, plain values, types, shapes and bytes in a checkpoint's dict, but for its own."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}{value.requires_grad}".encode())
            # a single element counts as contiguous with any stride, which a view as bytes does not take
            flat = value.detach().contiguous().as_strided((value.numel(),), (1,))
            digest.update(flat.view(torch.uint8).numpy().data)
        elif isinstance(value, dict):
            digest.update(f"{{{len(value)}".encode())
            for key, item in value.items():
                digest.update(f"{key!r}:".encode())
                add(item)
        elif isinstance(value, (list, tuple)):
            digest.update(f"[{len(value)}".encode())
            for item in value:
                add(item)
        else:
            digest.update(f"{value!r},".encode())

    add({key: value for key, value in state.items() if key != "checksum"})
    return digest.hexdigest()


def save_checkpoint(path: PathLike, state: dict[str, Any]) -> None:
    """Write ``state`` and its checksum, or nothing and PivotNetError: a folder not writable, or a full disk."""
    content = io.BytesIO()  # torch's archive writer would turn the error of a full disk into its own
    torch.save({**state, "checksum": checksum(state)}, content)
    with atomic_write(path) as stream:
        stream.write(content.getbuffer())


def list_checkpoints(folder: PathLike) -> list[Path]:
    """Checkpoints of a run, oldest step first."""
    found = [(int(match[1]), path) for path in Path(folder).glob("*.pth") if (match := _PATTERN.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def remove_old(folder: PathLike, keep: int) -> None:
    """Leave the newest ``keep`` checkpoints, and nothing of one whose writer was killed."""
    for path in (*list_checkpoints(folder)[:-keep], *Path(folder).glob(".step_*.pth.*.tmp")):
        path.unlink(missing_ok=True)


def upstream_state(model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int, step: int) -> dict[str, Any]:
    """What upstream's loader takes, in host memory: after the whole epoch of index ``epoch``, and ``step`` steps.
    PivotNetError where a weight is not finite, so that the state is of no use to anybody."""
    weights = {name: devices.to_host(tensor) for name, tensor in model.state_dict().items()}
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise PivotNetError(f"weight {name} is not finite, no checkpoint is written: lower --lr and --resume")
    saved = optimizer.state_dict()
    averages, groups = saved["state"], saved["param_groups"]
    averages = {key: {name: devices.to_host(value) for name, value in one.items()} for key, one in averages.items()}
    # a third, empty group follows those of the network and the backbone
    optimizer_state = {"state": averages, "param_groups": [*groups, {**groups[-1], "params": []}]}
    counts = {"epoch": epoch, "it": step, "global_step": step}
    return {**counts, "model_state": weights, "optimizer_state": optimizer_state, "callback": {}}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Give an optimiser the ``optimizer_state`` of a checkpoint, ours or upstream's."""
    groups = [group for group in state["param_groups"] if group["params"]]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})


def read_tensors(path: PathLike) -> Any:
    """What torch has saved in a file: tensors and plain values, in host memory. Raises FileNotFoundError: it is
    missing; PivotNetError: it is damaged, no file of torch, or holds anything else; the message names no remedy."""
    try:
        with open_file(path) as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own code is deprecated, and warns of it
            if not stream.read(4).startswith(WEIGHT_MAGIC):  # old tar files would be unpacked by old releases of torch
                raise ValueError("it is of another kind")
            if zipfile.is_zipfile(stream):
                with zipfile.ZipFile(stream) as archive:
                    infos = archive.infolist()
                size = os.fstat(stream.fileno()).st_size
                if any(info.compress_type for info in infos) or sum(info.file_size for info in infos) > size:
                    raise ValueError("it claims more bytes than it has")
            stream.seek(0)
            return torch.load(stream, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise PivotNetError(f"{path} cannot be read ({error.strerror or error})") from error
    except Exception as error:  # torch raises many types of errors for files that are cut, or are something else
        raise PivotNetError(
            f"{path} cannot be read ({type(error).__name__}): it is truncated, or holds more than tensors and numbers"
        ) from error


def read_checkpoint(path: PathLike) -> dict[str, Any]:
    """A checkpoint's dict, ours or upstream's, in host memory. Raises PivotNetError: missing, truncated, no checkpoint,
    changed since it was written, with weights that are not finite, or holding objects that are no tensors and plain
    values."""
    try:
        state = read_tensors(path)
    except FileNotFoundError as error:
        raise PivotNetError(f"checkpoint {path} does not exist") from error
    except PivotNetError as error:
        raise PivotNetError(f"checkpoint {error}; take another one") from error
    check(_CHECKPOINT, state, f"checkpoint {path}", "take another one")
    if state.get("checksum", "") not in ("", checksum(state)):
        raise PivotNetError(
            f"checkpoint {path} has changed since it was written: its checksum differs; take another one"
        )
    return state


def newest_good(paths: Sequence[Path]) -> tuple[Path, dict[str, Any], list[str]]:
    """The last checkpoint that can be read, its state, and what is wrong with newer ones; else PivotNetError."""
    bad: list[str] = []
    for path in reversed(paths):
        try:
            return path, read_checkpoint(path), bad
        except PivotNetError as error:
            bad.append(str(error))
    raise PivotNetError(bad[0])


def config_from_dict(values: dict[str, Any]) -> Config:
    """The Config whose ``to_dict`` gave ``values``; PivotNetError for another version's, another map or network."""
    parts = {name: type(part) for name, part in vars(PRESETS["swint"]).items() if name != "name"}
    try:
        config = Config(values["name"], **{name: kind(**values[name]) for name, kind in parts.items()})
    except (KeyError, TypeError) as error:
        raise PivotNetError(f"the configuration in the checkpoint is of another version ({error})") from error
    map_config = dataclasses.replace(config.map, num_queries=MapConfig().num_queries)
    network, known = config.model, BACKBONES.get(config.model.backbone)
    fits = known and known.channels == tuple(network.backbone_channels) and not any(n % 32 for n in network.image_size)
    if map_config != MapConfig() or not fits:
        raise PivotNetError("the configuration in the checkpoint is of another map or network; take another checkpoint")
    return config


def backbone_of(model_state: dict[str, Tensor]) -> str | None:
    """The backbone to which the weights belong, by their names; None if no name is known."""
    keys = "\n".join(model_state)
    return next((name for name, backbone in BACKBONES.items() if f"backbone.bkb.{backbone.mark}" in keys), None)


def load_weights(model: nn.Module, state: dict[str, Any], path: PathLike, config: Config) -> None:
    """Copy a checkpoint's weights into a model of ``config``; every name and shape must fit. Raises PivotNetError: the
    checkpoint is of another backbone or of other sizes."""
    weights = {name.removeprefix("module."): tensor for name, tensor in state["model_state"].items()}
    backbone = backbone_of(weights)
    if backbone not in (None, config.model.backbone):
        raise PivotNetError(
            f"checkpoint {path} holds a {backbone} backbone, preset {config.name} has {config.model.backbone}: "
            "choose the other preset or checkpoint"
        )
    own = model.state_dict()
    problems = {
        "lacks": [name for name in own if name not in weights],
        "has unknown": [name for name in weights if name not in own],
        "has other shapes of": [name for name in own if name in weights and own[name].shape != weights[name].shape],
    }
    for problem, names in problems.items():
        if names:
            raise PivotNetError(
                f"checkpoint {path} does not fit preset {config.name}: "
                f"it {problem} {len(names)} of {len(own)} tensors, the first is {names[0]}; take another one"
            )
    model.load_state_dict(weights)
