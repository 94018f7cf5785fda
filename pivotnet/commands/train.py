"""``pivotnet train``: one device, or many through torchrun.

    pivotnet train --preset swint --data-root data/nuscenes --output outputs/swint
    torchrun --nproc-per-node 8 -m pivotnet train --preset swint --data-root data/nuscenes --output outputs/swint
    torchrun --nnodes 2 --node-rank R --master-addr A --master-port P --nproc-per-node 8 -m pivotnet train ...

OUTPUT receives checkpoints/step_*.pth, train.log, tensorboard/, steps.rank*.jsonl (see training/records.py) and
summary.json (see training/summary.py).
Exit status: 0 done, 2 an error that its message explains, 143 stopped by SIGTERM after saving (go on with --resume)."""

import argparse
import dataclasses
import os
import time
from pathlib import Path

from pivotnet import device as devices
from pivotnet.annotation.folder import DEFAULT_DATA_ROOT
from pivotnet.commands import batch_size, positive, rate, seed, workers
from pivotnet.distributed import process_group, ranks_from_environment
from pivotnet.launch.supervise import end_with_parent
from pivotnet.training.job import SAVE_AT_LEAST, train
from pivotnet.training.loop import AMP, Run
from pivotnet.training.shutdown import EXIT_STATUS


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``pivotnet train``; their defaults are those of ``Run``."""
    add = parser.add_argument
    add("--preset", required=True, help="swint, res50, effb0 (upstream's networks) or smoke (learns on two cores)")
    add("--data-root", help=f"annotated nuScenes tree (DATA_ROOT, else {DEFAULT_DATA_ROOT})")
    add("--split", help="split to train on (train)")
    add("--output", type=Path, help="output folder (outputs/PRESET)")
    add("--epochs", type=positive, help="length of the schedule (the preset's: 30)")
    add("--steps", type=positive, help="end after this step of the schedule")
    add("--batch-size", type=batch_size, help="samples per card (the preset's: 1)")
    add("--lr", type=rate, help="learning rate, not scaled by the number of ranks")
    add("--backbone-lr", type=rate, help="the backbone's (--lr in the preset's ratio)")
    add("--amp", choices=sorted(AMP), help="precision of the backbone (none: float32)")
    add("--allow-tf32", action="store_true", help="let TF32 (GPU) and HF32 (NPU) into matrix products, convolutions")
    add("--seed", type=seed, help="of initialisation, dropout and the order of samples (0)")
    add("--deterministic", action="store_true", help="the same bits in every run, where kernels allow it")
    add("--resume", nargs="?", const="", metavar="CKPT", help="go on from CKPT, or from the newest one in --output")
    add("--pretrained", "--ckpt", type=Path, metavar="CKPT", help="start from a checkpoint's weights (or upstream's)")
    add("--backbone-weights", type=Path, metavar="FILE", help="start from a pretrained backbone file")
    add("--checkpointing", action=argparse.BooleanOptionalAction, help="recompute activations: less memory, more time")
    add("--graph", action="store_true", help="replay the network as captured graphs (docs/performance.md)")
    add("--workers", type=workers, help="data loading processes per card (chosen by cores and loading time)")
    add("--save-every", type=positive, help=f"steps between checkpoints (an epoch, at least {SAVE_AT_LEAST})")
    add("--keep", type=positive, help="checkpoints to keep (3)")
    add("--log-every", type=positive, help="steps between log lines (10)")
    add("--device", help="npu, cuda, cpu, or one with an index (the first of them that works)")
    add("--evaluate", metavar="SPLITS", help="score these splits at the end, as in val,train")
    add("--profile", type=positive, metavar="N", help="profile N steps into OUTPUT/profile (for ui.perfetto.dev)")
    own = {"output": None, "amp": "none", "data_root": os.environ.get("DATA_ROOT") or DEFAULT_DATA_ROOT}
    parser.set_defaults(**{**vars(Run(Path())), **own})


def run(args: argparse.Namespace) -> int:
    started = time.perf_counter()
    end_with_parent()
    options = {option.name: getattr(args, option.name) for option in dataclasses.fields(Run)}
    output = args.output or Path("outputs", args.preset)
    ranks = ranks_from_environment()
    device = devices.select_device(args.device, ranks.local_rank)
    with process_group(ranks, device):
        finished = train(Run(**{**options, "output": output, "amp": AMP[args.amp]}), ranks, device, started)
    return 0 if finished else EXIT_STATUS
