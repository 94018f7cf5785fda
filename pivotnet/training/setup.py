"""From options to everything that a run needs before its first step."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

import torch

from pivotnet import checkpoint as checkpoints
from pivotnet import device as devices
from pivotnet.config import Config, preset
from pivotnet.data.dataset import Loader, build_loader
from pivotnet.data.sampler import TrainingSampler, steps_per_epoch
from pivotnet.data.tokens import DEFAULT_DATA_ROOT, read_split
from pivotnet.distributed import Ranks, agreed
from pivotnet.errors import PivotNetError
from pivotnet.model.backbone.pretrained import load_pretrained
from pivotnet.model.ops.sync_batch_norm import convert_sync_batch_norm
from pivotnet.model.pivotnet import PivotNet
from pivotnet.training.loop import Run, Trainer
from pivotnet.training.optim import MultiStepSchedule, build_optimizer, learning_rates

AMP = {"none": None, "bf16": torch.bfloat16}
SAVE_AT_LEAST = 200  # steps between checkpoints, where an epoch is shorter


def configuration(args: argparse.Namespace) -> Config:
    """The preset with the options' changes."""
    config = preset(args.preset)
    optim: dict[str, Any] = {}
    if args.epochs is not None:
        optim["epochs"] = args.epochs
    if args.batch_size is not None:
        optim["batch_size"] = args.batch_size
    model: dict[str, Any] = {}
    if args.checkpointing is not None:
        model["checkpointing"] = args.checkpointing
    return dataclasses.replace(
        config,
        optim=dataclasses.replace(config.optim, **optim),
        model=dataclasses.replace(config.model, **model),
    )


def resume_path(args: argparse.Namespace, output: Path) -> Path | None:
    """The checkpoint to go on from; None to start anew.

    Raises:
        PivotNetError: the output folder holds another run.
    """
    if args.resume:
        return Path(args.resume)
    found = checkpoints.list_checkpoints(output / "checkpoints")
    if args.resume is None and found:
        raise PivotNetError(f"{output} holds a run already ({found[-1].name}): give --resume, or another --output")
    return found[-1] if found else None


def check_resumed(state: dict[str, Any], path: Path, config: Config, run: Run, ranks: Ranks) -> None:
    """Raise PivotNetError unless the checkpoint can go on under these options."""
    if "pivotnet" not in state:
        raise PivotNetError(f"checkpoint {path} is of upstream, its run cannot be resumed here: use --pretrained")
    saved = checkpoints.config_from_dict(state["pivotnet"]["config"])
    if saved.name != config.name:
        raise PivotNetError(
            f"checkpoint {path} is of preset {saved.name} ({saved.model.backbone} backbone), "
            f"not {config.name} ({config.model.backbone}): choose that preset, or another --output"
        )
    before = state["pivotnet"]
    for what, old, new in (
        ("samples a step", before["world_size"] * before["batch_size"], ranks.world_size * config.optim.batch_size),
        ("seed", before["seed"], run.seed),
    ):
        if old != new:
            raise PivotNetError(f"checkpoint {path} was trained with {what} = {old}, now it is {new}: keep it")


def build_trainer(config: Config, device: torch.device, ranks: Ranks, run: Run) -> Trainer:
    """The network, its optimiser and its schedule before the first step. Every rank calls this.

    Raises:
        PivotNetError: no learning rate is known for so many ranks, a weight file does not fit, or graphs cannot be had.
    """
    with agreed(ranks):
        if run.graph:
            _check_graph(config, device, ranks)
        rates = learning_rates(config.optim, ranks.world_size, run.lr, run.backbone_lr)
        devices.set_reduced_precision(run.allow_tf32)
        devices.seed_everything(run.seed)  # the same weights in every rank
        model = PivotNet(config.model, config.map)
        if run.backbone_weights:
            load_pretrained(model.im_backbone, config.model.backbone, run.backbone_weights)
        if run.pretrained:
            checkpoints.load_weights(model, checkpoints.read_checkpoint(run.pretrained), run.pretrained, config)
    if ranks.world_size > 1:
        convert_sync_batch_norm(model)
    model.to(device).train()
    optimizer = build_optimizer(model, config.optim, rates, device)
    schedule = MultiStepSchedule(config.optim, rates, run.steps_per_epoch)
    return Trainer(model, optimizer, schedule, config, run, device, ranks)


def _check_graph(config: Config, device: torch.device, ranks: Ranks) -> None:
    devices.check_graphs(device)
    if ranks.world_size > 1:
        raise PivotNetError(f"--graph works on one card, not on {ranks.world_size}: leave it out, or start one process")
    if config.model.checkpointing:
        raise PivotNetError("--graph cannot take recomputed activations: give --no-checkpointing")


class Setup:
    """Everything that is made before the first step; may fail in one rank alone.

    Raises:
        PivotNetError: an option, the data set, a checkpoint or a weight file is not right.
    """

    def __init__(self, args: argparse.Namespace, ranks: Ranks, device: torch.device) -> None:
        self.config = config = configuration(args)
        if args.deterministic:
            devices.set_deterministic()
        self.data_root = root = args.data_root or os.environ.get("DATA_ROOT") or DEFAULT_DATA_ROOT
        self.tokens = read_split(root, args.split)
        self.evaluate = {name: read_split(root, name) for name in args.evaluate.split(",") if name}
        self.output: Path = args.output or Path("outputs") / config.name
        self.resume = resume_path(args, self.output)
        self.state = checkpoints.read_checkpoint(self.resume) if self.resume else None

        batch_size = config.optim.batch_size
        epoch = steps_per_epoch(len(self.tokens), batch_size, ranks.world_size)
        self.run = Run(
            output=self.output,
            steps=args.steps or config.optim.epochs * epoch,
            steps_per_epoch=epoch,
            seed=args.seed,
            save_every=args.save_every or max(epoch, SAVE_AT_LEAST),
            keep=args.keep,
            lr=args.lr,
            backbone_lr=args.backbone_lr,
            amp=AMP[args.amp],
            allow_tf32=args.allow_tf32,
            graph=args.graph,
            backbone_weights=args.backbone_weights,
            pretrained=args.pretrained,
        )
        self.start_step = 0
        if self.resume and self.state:
            check_resumed(self.state, self.resume, config, self.run, ranks)
            self.start_step = self.state["pivotnet"]["step"]
            if self.start_step > self.run.steps or (self.start_step == self.run.steps and not self.evaluate):
                raise PivotNetError(f"{self.resume} has all of the {self.run.steps} steps asked for: give more --steps")

        self.loader: Loader = build_loader(
            config,
            root,
            self.tokens,
            sampler=TrainingSampler(
                len(self.tokens),
                batch_size,
                seed=args.seed,
                rank=ranks.rank,
                world_size=ranks.world_size,
                start_step=self.start_step,
                stop_step=self.run.steps,
            ),
            with_targets=True,
            workers=args.workers,
            device=device,
            local_ranks=ranks.local_world_size,
        )
