"""What is made of the options of a training run before the first step."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from pivotnet import checkpoint as checkpoints
from pivotnet import device as devices
from pivotnet.config import Config, preset
from pivotnet.data.dataset import steps_per_epoch
from pivotnet.distributed import Ranks, agreed
from pivotnet.errors import PivotNetError
from pivotnet.model.backbone.pretrained import load_pretrained
from pivotnet.model.ops.sync_batch_norm import convert_sync_batch_norm
from pivotnet.model.pivotnet import PivotNet
from pivotnet.schema import check, fields
from pivotnet.training.loop import Run, Trainer
from pivotnet.training.optim import MultiStepSchedule, build_optimizer, learning_rates
from pivotnet.training.summary import is_finished

SAVE_AT_LEAST = 200  # steps between checkpoints, where an epoch is shorter


def configuration(run: Run) -> Config:
    """The preset with the options' changes."""

    def given(*names: str) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(run, name)) is not None}

    config = preset(run.preset)
    optim = dataclasses.replace(config.optim, **given("epochs", "batch_size"))
    return dataclasses.replace(config, optim=optim, model=dataclasses.replace(config.model, **given("checkpointing")))


def plan(run: Run, config: Config, samples: int, ranks: Ranks) -> Run:
    """The run over a split of so many samples, with its lengths."""
    epoch = steps_per_epoch(samples, config.optim.batch_size, ranks.world_size)
    steps, save_every = run.steps or config.optim.epochs * epoch, run.save_every or max(epoch, SAVE_AT_LEAST)
    return dataclasses.replace(run, steps=steps, steps_per_epoch=epoch, save_every=save_every)


def build_trainer(config: Config, device: torch.device, ranks: Ranks, run: Run) -> Trainer:
    """The network, its optimiser and its schedule before the first step. Every rank calls this. Raises PivotNetError:
    no learning rate is known for so many ranks, a weight file does not fit, or graphs cannot be had."""
    with agreed(ranks):
        if run.graph:
            devices.check_graphs(device)
            if config.model.checkpointing:
                raise PivotNetError("--graph cannot take recomputed activations: give --no-checkpointing")
        rates = learning_rates(config.optim, ranks.world_size, run.lr, run.backbone_lr)
        devices.set_reduced_precision(run.allow_tf32)
        torch.manual_seed(run.seed)  # the same weights in every rank
        model = PivotNet(config.model, config.map)
        if run.backbone_weights:
            load_pretrained(model.im_backbone, config.model.backbone, run.backbone_weights)
        if run.pretrained:
            checkpoints.load_weights(model, checkpoints.read_checkpoint(run.pretrained), run.pretrained, config)
    if ranks.world_size > 1:
        convert_sync_batch_norm(model)
    model.to(device).train()
    optimizer = build_optimizer(model, config.optim, rates, ranks)
    schedule = MultiStepSchedule(config.optim, rates, run.steps_per_epoch)
    return Trainer(model, optimizer, schedule, config, run, device, ranks)


def find_resumed(run: Run, config: Config, ranks: Ranks) -> tuple[Path | None, dict[str, Any], list[str]]:
    """The checkpoint to go on from; where none is named, the newest good one. Returns path, state, and why newer
    checkpoints are left out; None and an empty state to start anew. Raises PivotNetError: the output folder holds
    another run or no good checkpoint, or the checkpoint is of upstream, of another preset, seed or number of samples a
    step, or complete."""
    found = checkpoints.list_checkpoints(run.output / "checkpoints")
    if run.resume is None and found:
        raise PivotNetError(f"{run.output} holds a run already ({found[-1].name}): give --resume, or another --output")
    if not run.resume and not found:
        return None, {}, []
    path, state, bad = checkpoints.newest_good([Path(run.resume)] if run.resume else found)
    if "pivotnet" not in state:
        raise PivotNetError(f"checkpoint {path} is of upstream, its run cannot be resumed here: use --pretrained")
    before = state["pivotnet"]
    check(fields(checkpoints.PROGRESS), before, f"checkpoint {path}", "its run cannot be resumed; use --pretrained")
    saved = checkpoints.config_from_dict(before["config"])
    if saved.name != config.name:
        raise PivotNetError(
            f"checkpoint {path} is of preset {saved.name} ({saved.model.backbone} backbone), "
            f"not {config.name} ({config.model.backbone}): choose that preset, or another --output"
        )
    for what, old, new in (
        ("samples a step", before["world_size"] * before["batch_size"], ranks.world_size * config.optim.batch_size),
        ("seed", before["seed"], run.seed),
    ):
        if old != new:
            raise PivotNetError(f"checkpoint {path} was trained with {what} = {old}, now it is {new}: keep it")
    complete = before["step"] == run.steps and not run.evaluate and is_finished(run.output)
    if before["step"] > run.steps or complete:
        raise PivotNetError(f"{path} has all of the {run.steps} steps asked for: give more --steps")
    return path, state, bad
