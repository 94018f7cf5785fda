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
import errno
import time
from pathlib import Path

import torch

from pivotnet import device as devices
from pivotnet.data.tokens import DEFAULT_DATA_ROOT
from pivotnet.distributed import CollectiveError, Ranks, agreed, process_group, ranks_from_environment
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.inference import Predictor, evaluate_splits
from pivotnet.files import make_folder
from pivotnet.launch.supervise import end_with_parent
from pivotnet.training.loop import Trainer, with_first
from pivotnet.training.monitor import Monitor
from pivotnet.training.setup import AMP, SAVE_AT_LEAST, Setup, build_trainer
from pivotnet.training.shutdown import EXIT_STATUS, Shutdown
from pivotnet.training.summary import describe_run, summarise_run, write_config
from pivotnet.training.timing import StepRecords, StepTimer, warmup_steps, write_summary

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
    add("--checkpointing", action=argparse.BooleanOptionalAction, help="recompute activations: less memory, more time")
    add("--graph", action="store_true", help="replay the network as captured graphs (one card; docs/performance.md)")
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
    end_with_parent()
    ranks = ranks_from_environment()
    try:
        device = devices.select_device(args.device, ranks.local_rank)
        with process_group(ranks, device):
            return _train(args, ranks, device, started)
    except CollectiveError:
        if ranks.main:
            raise
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        # checkpoints say so themselves; this is a record, a log line or a curve
        raise PivotNetError(f"the disk of --output is full ({error}): free some space, then --resume") from error


def _train(args: argparse.Namespace, ranks: Ranks, device: torch.device, started: float) -> int:
    with agreed(ranks):
        setup = Setup(args, ranks, device)
    trainer = build_trainer(setup.config, device, ranks, setup.run)
    with agreed(ranks):
        make_folder(setup.output, "--output")
    with contextlib.ExitStack() as stack:
        monitor = Monitor(
            setup.output,
            total_steps=setup.run.steps,
            start_step=setup.start_step,
            log_every=args.log_every,
            enabled=ranks.main,
        )
        stack.callback(monitor.close)
        if ranks.main:
            write_config(setup, args)
            for line in describe_run(setup, args, trainer.schedule.base_rates, ranks, device):
                monitor.say(line)
        shutdown = Shutdown()
        finished = _fit(args, setup, trainer, monitor, shutdown, ranks, device, stack)
        summary = summarise_run(setup, trainer, args, ranks, device, finished)
        if finished and setup.evaluate:
            assert trainer.checkpoint is not None
            shutdown.busy = True
            predictor = Predictor(
                trainer.model,
                setup.config,
                device,
                setup.data_root,
                setup.config.optim.batch_size,
                args.workers,
                ranks,
            )
            summary["evaluation"] = evaluate_splits(predictor, trainer.checkpoint, setup.evaluate, monitor.say)
        summary["wall_seconds"] = time.perf_counter() - started
        if ranks.main:
            write_summary(setup.output, summary)
            step_time = summary["step_seconds"]
            median = f", {step_time['median']:.4f} s/step (median)" if step_time else ""
            monitor.say(f"{'finished' if finished else 'stopped by SIGTERM'} after {trainer.step} steps{median}")
    return 0 if finished else EXIT_STATUS


def _fit(
    args: argparse.Namespace,
    setup: Setup,
    trainer: Trainer,
    monitor: Monitor,
    shutdown: Shutdown,
    ranks: Ranks,
    device: torch.device,
    stack: contextlib.ExitStack,
) -> bool:
    """Restore what is resumed, and train; returns whether the run is complete."""
    left = setup.run.steps - setup.start_step
    if left:
        first, batches = with_first(setup.loader)
        if setup.resume:
            trainer.settle(first)
    devices.seed_everything(args.seed + 1 + ranks.rank)  # each rank drops other units
    if setup.resume and setup.state:
        trainer.restore(setup.state, setup.resume)
        setup.state = None  # its memory is needed
    devices.reset_peak_memory(device)
    if not left:  # a run that ended in its evaluation goes on there
        return True
    records = StepRecords(setup.output, ranks.rank, setup.start_step)
    stack.callback(records.close)
    after_step = None
    if args.profile:
        folder = str(setup.output / "profile")
        after_step = stack.enter_context(devices.profile(device, folder, PROFILE_AFTER, args.profile)).step
    shutdown.install()
    stack.callback(shutdown.remove)
    return trainer.fit(batches, records, monitor, StepTimer(warmup_steps(left)), shutdown, after_step)
