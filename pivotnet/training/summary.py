"""What a run is, told at its start, and what it was, summed up at its end."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from pivotnet import device as devices
from pivotnet.distributed import Ranks, gather_objects
from pivotnet.files import atomic_write
from pivotnet.training.loop import Trainer
from pivotnet.training.setup import Setup
from pivotnet.training.timing import counted_times, read_records, records_path, summarise, warmup_steps


def write_config(setup: Setup, args: argparse.Namespace) -> None:
    """OUTPUT/config.json: the preset in full, and the options."""
    options = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    with atomic_write(setup.output / "config.json", "w") as stream:
        json.dump({"preset": setup.config.to_dict(), "options": options}, stream, indent=2)
        stream.write("\n")


def describe_run(
    setup: Setup, args: argparse.Namespace, rates: tuple[float, ...], ranks: Ranks, device: torch.device
) -> list[str]:
    """Lines for the console and the log: versions, device, precision, rates, data, where it starts."""
    config, run = setup.config, setup.run
    where = "in memory" if setup.loader.dataset.cached is not None else "from disk"
    lines = [
        " ".join(f"{name} {version}" for name, version in devices.versions().items()),
        f"{config.name} on {ranks.world_size} x {device.type} ({devices.device_name(device)}), "
        f"batch {config.optim.batch_size} a rank, {_precision(args)}, TF32/HF32 {'on' if run.allow_tf32 else 'off'}, "
        f"lr {rates[0]:g}, backbone {rates[1]:g}",
        f"{len(setup.tokens)} samples ({where}, {setup.loader.loader.num_workers} workers a rank), "
        f"{run.steps_per_epoch} steps an epoch, until step {run.steps}",
    ]
    if setup.resume:
        lines.append(f"resumed from {setup.resume} at step {setup.start_step}")
    elif args.resume is not None:
        lines.append(f"nothing to resume in {setup.output}: starting at step 0")
    if not (args.backbone_weights or args.pretrained or setup.resume):
        lines.append("the backbone starts untrained: give --backbone-weights for upstream's accuracy")
    return lines


def _precision(args: argparse.Namespace) -> str:
    return "float32" if args.amp == "none" else args.amp


def summarise_run(
    setup: Setup, trainer: Trainer, args: argparse.Namespace, ranks: Ranks, device: torch.device, finished: bool
) -> dict[str, Any]:
    """summary.json's content (see timing.py) out of the records of all ranks; every rank calls this."""
    config, run = setup.config, setup.run
    path = records_path(setup.output, ranks.rank)
    gathered = gather_objects((*counted_times(path), devices.peak_memory(device)), ranks)
    last = list(read_records(path))[-1]
    global_batch = config.optim.batch_size * ranks.world_size
    return {
        "preset": config.name,
        "device": device.type,
        "device_name": devices.device_name(device),
        "ranks": ranks.world_size,
        "batch_size": config.optim.batch_size,
        "global_batch": global_batch,
        "precision": _precision(args),
        "seed": run.seed,
        "steps": trainer.step,
        "start_step": setup.start_step,
        "epochs": config.optim.epochs,
        "steps_per_epoch": run.steps_per_epoch,
        "samples": len(setup.tokens),
        **summarise(
            [seconds for times, _, _ in gathered for seconds in times],
            [seconds for _, waits, _ in gathered for seconds in waits],
            global_batch,
            warmup_steps(run.steps - setup.start_step),
        ),
        "train_seconds": trainer.elapsed,
        "peak_memory_bytes": max(memory for _, _, memory in gathered),
        "final_loss": last["loss"],
        "final_terms": last["terms"],
        "finished": finished,
        "checkpoint": str(trainer.checkpoint.relative_to(setup.output)) if trainer.checkpoint else None,
        "evaluation": {},
        "versions": devices.versions(),
    }
