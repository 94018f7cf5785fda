"""The options of a training run, and what is made of them before the first step."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pivotnet import checkpoint as checkpoints
from pivotnet import device as devices
from pivotnet.config import Config, preset
from pivotnet.data.sampler import steps_per_epoch
from pivotnet.distributed import Ranks, agreed
from pivotnet.errors import PivotNetError
from pivotnet.model.backbone.pretrained import load_pretrained
from pivotnet.model.ops.sync_batch_norm import convert_sync_batch_norm
from pivotnet.model.pivotnet import PivotNet
from pivotnet.schema import check, fields
from pivotnet.training.loop import Run, Trainer
from pivotnet.training.optim import MultiStepSchedule, build_optimizer, learning_rates
from pivotnet.training.summary import is_finished

AMP = {"none": None, "bf16": torch.bfloat16}
SAVE_AT_LEAST = 200  # steps between checkpoints, where an epoch is shorter


@dataclass(frozen=True)
class Options:
    """The options of a run; ``pivotnet train --help`` describes each."""

    preset: str
    data_root: str
    split: str = "train"
    output: Path | None = None  # outputs/PRESET
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    backbone_lr: float | None = None
    amp: str = "none"
    allow_tf32: bool = False
    seed: int = 0
    deterministic: bool = False
    resume: str | None = None  # a checkpoint, or "" for the newest one in the output folder
    pretrained: Path | None = None
    backbone_weights: Path | None = None
    checkpointing: bool | None = None
    graph: bool = False
    workers: int | None = None
    save_every: int | None = None
    keep: int = 3
    log_every: int = 10
    evaluate: str = ""  # splits, separated by commas
    profile: int | None = None  # steps

    @property
    def precision(self) -> str:
        return "float32" if self.amp == "none" else self.amp


def configuration(options: Options) -> Config:
    """The preset with the options' changes."""

    def given(*names: str) -> dict[str, Any]:
        return {name: getattr(options, name) for name in names if getattr(options, name) is not None}

    config = preset(options.preset)
    optim = dataclasses.replace(config.optim, **given("epochs", "batch_size"))
    model = dataclasses.replace(config.model, **given("checkpointing"))
    return dataclasses.replace(config, optim=optim, model=model)


def plan_run(options: Options, config: Config, samples: int, ranks: Ranks) -> Run:
    """Lengths and folders of a run over a split of so many samples."""
    epoch = steps_per_epoch(samples, config.optim.batch_size, ranks.world_size)
    same = ("seed", "keep", "lr", "backbone_lr", "allow_tf32", "graph", "backbone_weights", "pretrained")
    return Run(
        output=options.output or Path("outputs") / config.name,
        steps=options.steps or config.optim.epochs * epoch,
        steps_per_epoch=epoch,
        save_every=options.save_every or max(epoch, SAVE_AT_LEAST),
        amp=AMP[options.amp],
        **{name: getattr(options, name) for name in same},
    )


def build_trainer(config: Config, device: torch.device, ranks: Ranks, run: Run) -> Trainer:
    """The network, its optimiser and its schedule before the first step. Every rank calls this.

    Raises:
        PivotNetError: no learning rate is known for so many ranks, a weight file does not fit, or graphs cannot be had.
    """
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


def find_resumed(
    options: Options, config: Config, run: Run, ranks: Ranks
) -> tuple[Path | None, dict[str, Any] | None, list[str]]:
    """The checkpoint to go on from, and its state; None to start anew. Where none is named, the newest good one.

    Returns:
        path, state, and why newer checkpoints are left out.

    Raises:
        PivotNetError: the output folder holds another run or no good checkpoint, or the checkpoint is of upstream, of
            another preset, seed or number of samples a step, or complete.
    """
    found = checkpoints.list_checkpoints(run.output / "checkpoints")
    if options.resume is None and found:
        raise PivotNetError(f"{run.output} holds a run already ({found[-1].name}): give --resume, or another --output")
    if not options.resume and not found:
        return None, None, []
    path, state, bad = checkpoints.newest_good([Path(options.resume)] if options.resume else found)
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
    complete = before["step"] == run.steps and not options.evaluate and is_finished(run.output)
    if before["step"] > run.steps or complete:
        raise PivotNetError(f"{path} has all of the {run.steps} steps asked for: give more --steps")
    return path, state, bad
