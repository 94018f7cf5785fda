"""``pivotnet train``: one device, or many through torchrun.

    pivotnet train --preset swint --data-root data/nuscenes --output outputs/swint
    torchrun --nproc-per-node 8 -m pivotnet train --preset swint --data-root data/nuscenes --output outputs/swint
    torchrun --nnodes 2 --node-rank R --master-addr A --master-port P --nproc-per-node 8 -m pivotnet train ...

OUTPUT receives checkpoints/step_*.pth, train.log, tensorboard/, steps.rank*.jsonl and summary.json (see timing.py).
Exit status: 0 done, 2 an error that its message explains, 143 stopped by SIGTERM after saving (go on with --resume).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from pathlib import Path
from typing import Any

import torch

from pivotnet import device as devices
from pivotnet.data.dataset import DEFAULT_DATA_ROOT
from pivotnet.errors import PivotNetError
from pivotnet.files import atomic_write
from pivotnet.training.distributed import (
    CollectiveError,
    Ranks,
    agree,
    gather_objects,
    process_group,
    ranks_from_environment,
)
from pivotnet.training.loop import Trainer, with_first
from pivotnet.training.optim import build_optimizer
from pivotnet.training.report import Report
from pivotnet.training.schedule import MultiStepSchedule
from pivotnet.training.scoring import evaluate_splits
from pivotnet.training.setup import AMP, SAVE_AT_LEAST, Setup
from pivotnet.training.shutdown import EXIT_STATUS, Shutdown
from pivotnet.training.timing import (
    StepRecords,
    StepTimer,
    counted_times,
    records_path,
    summarise,
    warmup_steps,
    write_summary,
)

PROFILE_AFTER = 10  # steps before a profile begins


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``pivotnet train``."""
    add = parser.add_argument
    add("--preset", required=True, help="swint, res50, effb0 (upstream's networks) or smoke (learns on two cores)")
    add("--data-root", help=f"annotated nuScenes tree (DATA_ROOT, else {DEFAULT_DATA_ROOT})")
    add("--split", default="train", help="split to train on (train)")
    add("--output", type=Path, help="output folder (outputs/PRESET)")
    add("--epochs", type=_positive, help="length of the schedule (the preset's: 30)")
    add("--steps", type=_positive, help="end after this step of the schedule")
    add("--batch-size", type=_positive, help="samples a card (the preset's: 1)")
    add("--lr", type=float, help="learning rate, not scaled by the number of ranks")
    add("--backbone-lr", type=float, help="the backbone's (--lr in the preset's ratio)")
    add("--amp", choices=sorted(AMP), default="none", help="mixed precision (none: float32)")
    add("--allow-tf32", action="store_true", help="let TF32 (GPU) and HF32 (NPU) into matrix products, convolutions")
    add("--seed", type=int, default=0, help="of initialisation, dropout and the order of samples (0)")
    add("--deterministic", action="store_true", help="the same bits in every run, where kernels allow it")
    add("--resume", nargs="?", const="", metavar="CKPT", help="go on from CKPT, or from the newest one in --output")
    add("--pretrained", "--ckpt", type=Path, metavar="CKPT", help="start from a checkpoint's weights (or upstream's)")
    add("--backbone-weights", type=Path, metavar="FILE", help="start from a pretrained backbone file")
    add("--checkpointing", action=argparse.BooleanOptionalAction, help="recompute backbone activations: less memory")
    add("--workers", type=int, help="data loading processes a card (chosen by cores and size of the split)")
    add("--save-every", type=_positive, help=f"steps between checkpoints (an epoch, at least {SAVE_AT_LEAST})")
    add("--keep", type=_positive, default=3, help="checkpoints to keep (3)")
    add("--log-every", type=_positive, default=10, help="steps between log lines (10)")
    add("--device", help="npu, cuda, cpu, or one with an index (the first of them that works)")
    add("--evaluate", default="", metavar="SPLITS", help="score these splits at the end, as in val,train")
    add("--profile", type=_positive, metavar="N", help="profile N steps into OUTPUT/profile (for TensorBoard)")


def run(args: argparse.Namespace) -> int:
    """Train; returns the exit status."""
    started = time.perf_counter()
    ranks = ranks_from_environment()
    try:
        device = devices.select_device(args.device, ranks.local_rank)
        with process_group(ranks, device):
            return _train(args, ranks, device, started)
    except CollectiveError:
        if ranks.main:
            raise
        return 2


def _train(args: argparse.Namespace, ranks: Ranks, device: torch.device, started: float) -> int:
    error: PivotNetError | None = None
    try:
        setup = Setup(args, ranks, device)
    except PivotNetError as caught:
        error = caught
    agree(error, ranks)

    config, run_ = setup.config, setup.run
    report = Report(
        run_.output,
        total_steps=run_.steps,
        start_step=setup.start_step,
        log_every=args.log_every,
        enabled=ranks.main,
    )
    shutdown = Shutdown()
    with contextlib.ExitStack() as stack:
        stack.callback(report.close)
        _say_start(args, setup, report, ranks, device)
        trainer = Trainer(
            setup.model,
            build_optimizer(setup.model, config.optim, setup.rates, device),
            MultiStepSchedule(config.optim, setup.rates, run_.steps_per_epoch),
            config,
            run_,
            device,
            ranks,
        )
        first, batches = with_first(setup.loader)
        if setup.resume and setup.state:
            trainer.settle(first)
            devices.seed_everything(args.seed + 1 + ranks.rank)
            trainer.restore(setup.state, setup.resume)
        else:
            devices.seed_everything(args.seed + 1 + ranks.rank)  # each rank drops other units
        setup.state = None
        records = StepRecords(run_.output, ranks.rank, setup.start_step)
        stack.callback(records.close)
        timer = StepTimer(warmup_steps(run_.steps - setup.start_step))
        devices.reset_peak_memory(device)
        after_step = lambda: None  # noqa: E731
        if args.profile:
            folder = str(run_.output / "profile")
            after_step = stack.enter_context(devices.profile(device, folder, PROFILE_AFTER, args.profile)).step
        shutdown.install()
        stack.callback(shutdown.remove)
        finished = trainer.fit(batches, records, report, timer, shutdown, after_step)
        evaluation: dict[str, Any] = {}
        if finished and setup.evaluate:
            assert trainer.checkpoint is not None
            shutdown.busy = True
            evaluation = evaluate_splits(
                setup.model,
                trainer.checkpoint,
                config,
                setup.evaluate,
                setup.data_root,
                workers=args.workers,
                device=device,
                ranks=ranks,
                report=report,
            )
        summary = _summary(args, setup, trainer, timer, ranks, device, finished, started)
        if ranks.main:
            write_summary(run_.output, {**summary, "evaluation": evaluation})
            step_time = summary["step_seconds"]
            report.say(
                f"{'finished' if finished else 'stopped by SIGTERM'} after {trainer.step} steps"
                + (f", {step_time['median']:.4f} s/step (median)" if step_time else "")
            )
    return 0 if finished else EXIT_STATUS


def _say_start(args: argparse.Namespace, setup: Setup, report: Report, ranks: Ranks, device: torch.device) -> None:
    """What this run is, for the console, the log and OUTPUT/config.json."""
    config, run_ = setup.config, setup.run
    if not ranks.main:
        return
    options = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    with atomic_write(run_.output / "config.json", "w") as stream:
        json.dump({"preset": config.to_dict(), "options": options}, stream, indent=2, default=str)
    report.say(" ".join(f"{name} {version}" for name, version in devices.versions().items()))
    report.say(
        f"{config.name} on {ranks.world_size} x {device.type} ({devices.device_name(device)}), "
        f"batch {run_.batch_size} a rank, {'float32' if run_.amp is None else args.amp}, {setup.precision}, "
        f"lr {setup.rates[0]:g}, backbone {setup.rates[1]:g}"
    )
    where = "in memory" if setup.loader.dataset.cached is not None else "from disk"
    report.say(
        f"{len(setup.tokens)} samples ({where}, {setup.loader.loader.num_workers} workers a rank), "
        f"{run_.steps_per_epoch} steps an epoch, until step {run_.steps}"
    )
    if setup.resume:
        report.say(f"resumed from {setup.resume} at step {setup.start_step}")
    elif args.resume is not None:
        report.say(f"nothing to resume in {run_.output}: starting at step 0")
    if not (args.backbone_weights or args.pretrained or setup.resume):
        report.say("the backbone starts untrained: give --backbone-weights for upstream's accuracy")


def _summary(
    args: argparse.Namespace,
    setup: Setup,
    trainer: Trainer,
    timer: StepTimer,
    ranks: Ranks,
    device: torch.device,
    finished: bool,
    started: float,
) -> dict[str, Any]:
    """summary.json's content (see timing.py), from the records of all ranks."""
    config, run_ = setup.config, setup.run
    records = records_path(run_.output, ranks.rank)
    times, waits = counted_times(records)
    gathered = gather_objects((times, waits, devices.peak_memory(device)), ranks)
    global_batch = run_.batch_size * ranks.world_size
    assert trainer.last is not None
    return {
        "preset": config.name,
        "device": device.type,
        "device_name": devices.device_name(device),
        "ranks": ranks.world_size,
        "batch_size": run_.batch_size,
        "global_batch": global_batch,
        "precision": args.amp if run_.amp else "float32",
        "seed": run_.seed,
        "steps": trainer.step,
        "start_step": setup.start_step,
        "epochs": config.optim.epochs,
        "steps_per_epoch": run_.steps_per_epoch,
        "samples": len(setup.tokens),
        **summarise(
            [value for one, _, _ in gathered for value in one],
            [value for _, one, _ in gathered for value in one],
            global_batch,
            timer.warmup,
        ),
        "train_seconds": trainer.elapsed,
        "wall_seconds": time.perf_counter() - started,
        "peak_memory_bytes": max(memory for _, _, memory in gathered),
        "final_loss": trainer.last[0],
        "final_terms": trainer.last[1],
        "finished": finished,
        "checkpoint": str(trainer.checkpoint.relative_to(run_.output)) if trainer.checkpoint else None,
        "versions": devices.versions(),
    }
