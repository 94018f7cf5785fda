"""A training run from its options to its summary."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from pivotnet import checkpoint as checkpoints
from pivotnet import device as devices
from pivotnet.annotation.folder import read_split
from pivotnet.config import Config, preset
from pivotnet.data.dataset import Loader, TrainingSampler, build_loader, steps_per_epoch
from pivotnet.distributed import Ranks, agreed
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.inference import Predictor, evaluate_splits
from pivotnet.files import lock_output, make_folder, write_json
from pivotnet.schema import check, fields
from pivotnet.structures import Batch
from pivotnet.training.loop import Run, Trainer
from pivotnet.training.records import Monitor, StepRecords
from pivotnet.training.shutdown import Shutdown
from pivotnet.training.summary import SUMMARY, read_summary, summarise, write_summary

PROFILE_AFTER = 10  # steps before a profile begins
SAVE_AT_LEAST = 200  # steps between checkpoints, where an epoch is shorter


def train(run: Run, ranks: Ranks, device: torch.device, started: float) -> bool:
    """Train, evaluate what is asked for, and write everything into the output folder. Every rank calls this.
    ``started`` is ``time.perf_counter()`` of the process's start. Returns False if SIGTERM stopped the run. Raises
    PivotNetError: an option, the data set, a checkpoint or a weight file is not right, or the loss is not finite."""
    with agreed(ranks):
        config = configuration(run)
        tokens = read_split(run.data_root, run.split)
        evaluated = {name: read_split(run.data_root, name) for name in run.evaluate.split(",") if name}
        run = plan(run, config, len(tokens), ranks)
        resumed, state, bad = find_resumed(run, config, ranks)
    start_step = state["pivotnet"]["step"] if resumed else 0
    if run.deterministic:
        devices.set_deterministic()
    trainer = Trainer(config, device, ranks, run)

    with contextlib.ExitStack() as stack:
        with agreed(ranks):
            make_folder(run.output, "--output")
            if ranks.main:
                stack.enter_context(lock_output(run.output))
                for path in run.output.glob(".*.tmp"):  # of a process that was killed while it wrote
                    path.unlink(missing_ok=True)
            lengths = (len(tokens), config.optim.batch_size, run.steps, start_step)
            sampler = TrainingSampler(*lengths, run.seed, ranks.rank, ranks.world_size)
            where: dict[str, Any] = {"device": device, "local_ranks": ranks.local_world_size, "workers": run.workers}
            loader = build_loader(config, run.data_root, tokens, sampler=sampler, with_targets=True, **where)
        monitor = Monitor(
            run.output, total_steps=run.steps, start_step=start_step, log_every=run.log_every, enabled=ranks.main
        )
        stack.enter_context(contextlib.closing(monitor))
        if ranks.main:
            content = {"preset": config.to_dict(), "options": {key: _plain(value) for key, value in vars(run).items()}}
            write_json(run.output / "config.json", content, indent=2)
            for line in [*bad, *_describe(trainer, loader, resumed, start_step)]:
                monitor.say(line)
        batches = _start(trainer, loader, resumed, state)
        state.clear()  # its memory is needed
        records = StepRecords(run.output, ranks.rank, start_step, run.steps - start_step)
        stack.enter_context(contextlib.closing(records))
        shutdown = Shutdown()
        finished = True
        if start_step < run.steps:  # else the run ended in its evaluation, and goes on there
            stack.enter_context(shutdown)
            folder = run.output / "profile"
            profiler: Any = contextlib.nullcontext()
            if run.profile:
                profiler = devices.profile(device, str(folder), PROFILE_AFTER, run.profile)
            with profiler as profile:
                finished = trainer.fit(batches, records, monitor, shutdown, profile)
            if folder.is_dir():
                monitor.say(f"profile: {folder}; open it in ui.perfetto.dev (NPU: MindStudio Insight)")
        batch_size, root = config.optim.batch_size, run.data_root
        known = {"preset": config.name, "precision": run.precision, "seed": run.seed, "epochs": config.optim.epochs}
        known.update(steps_per_epoch=run.steps_per_epoch, samples=len(tokens), train_seconds=trainer.elapsed)
        known.update(finished=finished)
        summary = summarise(records, ranks, device, batch_size, started, trainer.checkpoint, **known)
        if finished and evaluated:
            assert trainer.checkpoint is not None
            shutdown.busy = True
            predictor = Predictor(trainer.model, config, device, root, batch_size, run.workers, ranks)
            evaluation = evaluate_splits(predictor, trainer.checkpoint, evaluated, monitor.say)
            summary.update(evaluation=evaluation, wall_seconds=time.perf_counter() - started)
        if ranks.main:
            write_summary(run.output, summary)
            times = summary["step_seconds"]
            median = f", {times['median']:.4f} s/step (median)" if times else ""
            monitor.say(f"{'finished' if finished else 'stopped by SIGTERM'} after {trainer.step} steps{median}")
    return finished


def configuration(run: Run) -> Config:

    def given(*names: str) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(run, name)) is not None}

    config = preset(run.preset)
    optim = dataclasses.replace(config.optim, **given("epochs", "batch_size"))
    return dataclasses.replace(config, optim=optim, model=dataclasses.replace(config.model, **given("checkpointing")))


def plan(run: Run, config: Config, samples: int, ranks: Ranks) -> Run:
    epoch = steps_per_epoch(samples, config.optim.batch_size, ranks.world_size)
    steps, save_every = run.steps or config.optim.epochs * epoch, run.save_every or max(epoch, SAVE_AT_LEAST)
    return dataclasses.replace(run, steps=steps, steps_per_epoch=epoch, save_every=save_every)


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
            raise PivotNetError(f"checkpoint {path} was trained with {what} = {old}, now it is {new}: use {old}")
    complete = before["step"] == run.steps and not run.evaluate and (run.output / SUMMARY).exists()
    if before["step"] > run.steps or (complete and read_summary(run.output)["finished"]):
        raise PivotNetError(f"{path} has all of the {run.steps} steps asked for: give more --steps")
    return path, state, bad


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, (Path, torch.dtype)) else value


def _start(trainer: Trainer, loader: Loader, resumed: Path | None, state: dict[str, Any]) -> Iterator[Batch]:
    """Set the random states, those of a resumed run too; returns the batches. The loader draws a random number before
    its first batch, so that is fetched first."""
    batches = iter(loader)
    first = [next(batches)] if len(loader) else []  # a run that goes on in its evaluation has none
    torch.manual_seed(trainer.run.seed + 1 + trainer.ranks.rank)  # each rank drops other units
    if resumed:
        trainer.restore(state, resumed)
    devices.reset_peak_memory(trainer.device)
    return chain(first, batches)


def _describe(trainer: Trainer, loader: Loader, resumed: Path | None, start_step: int) -> list[str]:
    """Lines for the console and the log: versions, device, precision, rates, data, where it starts."""
    config, run, device = trainer.config, trainer.run, trainer.device
    rate, backbone_rate = trainer.schedule.base_rates
    where = "in memory" if loader.dataset.cached is not None else "from disk"
    lines = [
        " ".join(f"{name} {version}" for name, version in devices.versions().items()),
        f"{config.name} on {trainer.ranks.world_size} x {device.type} ({devices.device_name(device)}), "
        f"batch {config.optim.batch_size} a rank, {run.precision}, TF32/HF32 {'on' if run.allow_tf32 else 'off'}, "
        f"lr {rate:g}, backbone {backbone_rate:g}",
        f"{len(loader.dataset.tokens)} samples ({where}, {loader.num_workers} workers a rank), "
        f"{run.steps_per_epoch} steps an epoch, until step {run.steps}",
        *devices.doubts(device, run.amp),
    ]
    if resumed:
        lines.append(f"resumed from {resumed} at step {start_step}")
    elif run.resume is not None:
        lines.append(f"nothing to resume in {run.output}: starting at step 0")
    if not (run.backbone_weights or run.pretrained or resumed):
        lines.append("the backbone starts untrained: give --backbone-weights for upstream's accuracy")
    return lines
