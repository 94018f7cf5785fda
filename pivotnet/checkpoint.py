"""Checkpoints: upstream's file layout, whole or not at all, the newest N kept.

A file is a dict with upstream's keys, so that upstream's loader takes it: ``epoch`` (index of the last whole epoch),
``it`` and ``global_step`` (steps done), ``model_state`` (no ``module.`` prefix), ``optimizer_state``, ``callback``.
What upstream does not store lies under ``pivotnet``: config, step, world_size, batch_size, seed, elapsed
seconds and the random state of every rank.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor, nn

from pivotnet import device as devices
from pivotnet.config import BACKBONES, Config, CriterionConfig, MapConfig, ModelConfig, OptimConfig
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike, atomic_write

NAME = "step_{:08d}.pth"
_PATTERN = re.compile(r"step_(\d{8,})\.pth")


class _Stream:
    """A file that keeps the error of a failed write: torch's archive writer turns every OSError into its own errors."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        if self.failure is not None:  # the archive writer tries to finish the file on its way out
            return len(data)
        try:
            return self.stream.write(data)
        except OSError as error:
            self.failure = error
            return len(data)

    def flush(self) -> None:
        if self.failure is None:
            self.stream.flush()


def save_checkpoint(path: PathLike, state: dict[str, Any]) -> None:
    """Write ``state`` to ``path``, atomically.

    Raises:
        PivotNetError: the folder is not writable or its disk is full; nothing is left of the attempt.
    """
    with atomic_write(path) as stream:
        guarded = _Stream(stream)
        torch.save(state, cast(IO[bytes], guarded))
        if guarded.failure is not None:
            raise guarded.failure


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

    Raises:
        PivotNetError: a weight is not finite, so the state is of no use to anybody.
    """
    weights = {name: devices.to_host(tensor) for name, tensor in model.state_dict().items()}
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise PivotNetError(f"weight {name} is not finite, no checkpoint is written: lower --lr and --resume")
    return {
        "epoch": epoch,
        "it": step,
        "global_step": step,
        "model_state": weights,
        "optimizer_state": _optimizer_state(optimizer),
        "callback": {},
    }


def _optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's state in host memory.

    A third, empty group follows the two of the network and the backbone, as in upstream's files.
    """
    state = optimizer.state_dict()
    entries = {
        key: {name: devices.to_host(value) for name, value in entry.items()} for key, entry in state["state"].items()
    }
    groups = [dict(group) for group in state["param_groups"]]
    return {"state": entries, "param_groups": [*groups, {**groups[-1], "params": []}]}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Give an optimiser the ``optimizer_state`` of a checkpoint, ours or upstream's."""
    groups = [group for group in state["param_groups"] if group["params"]]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})


def read_checkpoint(path: PathLike) -> dict[str, Any]:
    """A checkpoint's dict, ours or upstream's, in host memory.

    Raises:
        PivotNetError: missing, truncated, no checkpoint, or holding objects that are no tensors and plain values.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TypedStorage is deprecated")  # torch 2.1 says so of its own code
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise PivotNetError(f"checkpoint {path} does not exist") from error
    except pickle.UnpicklingError as error:
        raise PivotNetError(
            f"checkpoint {path} is truncated, or holds more than tensors and plain values; it is not loaded"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise PivotNetError(f"checkpoint {path} cannot be read: it is truncated or no checkpoint") from error
    if not isinstance(state, dict) or not isinstance(state.get("model_state"), dict):
        raise PivotNetError(f"{path} is no checkpoint: it has no model_state")
    return state


def config_from_dict(values: dict[str, Any]) -> Config:
    """The Config whose ``to_dict`` gave ``values``.

    Raises:
        PivotNetError: a field that this version does not know.
    """
    try:
        return Config(
            values["name"],
            ModelConfig(**values["model"]),
            MapConfig(**values["map"]),
            CriterionConfig(**values["criterion"]),
            OptimConfig(**values["optim"]),
        )
    except (KeyError, TypeError) as error:
        raise PivotNetError(f"the configuration in the checkpoint is of another version ({error})") from error


def backbone_of(model_state: dict[str, Tensor]) -> str | None:
    """The backbone to which the weights belong, by their names; None if no name is known."""
    for name, backbone in BACKBONES.items():
        if any(f"backbone.bkb.{backbone.mark}" in key for key in model_state):
            return name
    return None


def load_weights(model: nn.Module, state: dict[str, Any], path: PathLike, config: Config) -> None:
    """Copy a checkpoint's weights into a model of ``config``; every name and shape must fit.

    Raises:
        PivotNetError: the checkpoint is of another backbone or of other sizes.
    """
    weights = {name.removeprefix("module."): tensor for name, tensor in state["model_state"].items()}
    backbone = backbone_of(weights)
    if backbone is not None and backbone != config.model.backbone:
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
                f"it {problem} {len(names)} of {len(own)} tensors, the first is {names[0]}"
            )
    model.load_state_dict(weights)
