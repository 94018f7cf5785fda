"""Options that several commands share, and what they stand for."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import torch

from pivotnet.config import PRESETS, Config
from pivotnet.data.dataset import Loader, build_loader
from pivotnet.data.sampler import EvaluationSampler
from pivotnet.data.tokens import DEFAULT_DATA_ROOT, SPLITS
from pivotnet.device import set_reduced_precision
from pivotnet.distributed import Ranks
from pivotnet.errors import PivotNetError
from pivotnet.model.pivotnet import PivotNet, load_model


def add_sample_arguments(parser: argparse.ArgumentParser) -> None:
    """The options --data-root, --split and --tokens."""
    parser.add_argument(
        "--data-root",
        default=os.environ.get("DATA_ROOT", DEFAULT_DATA_ROOT),
        metavar="ROOT",
        help="annotated nuScenes tree (default: DATA_ROOT, else %(default)s)",
    )
    parser.add_argument("--split", choices=SPLITS, default="val", help="samples of this split (default: %(default)s)")
    parser.add_argument(
        "--tokens",
        nargs="+",
        metavar="TOKEN",
        help="these samples of either split instead; a file that lists them, one a line, will do too",
    )


def add_network_arguments(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """The options --ckpt, --preset, --device, --batch-size and --workers."""
    parser.add_argument("--ckpt", metavar="CKPT", required=required, help="checkpoint, ours or upstream's")
    parser.add_argument("--preset", choices=list(PRESETS), help="of a checkpoint of upstream; ours know theirs")
    parser.add_argument("--device", help="npu, cuda or cpu, also npu:1 (default: the first that works)")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="samples at once (default: 1)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that load and score (default: by cores)")


def load_network(args: argparse.Namespace, device: torch.device) -> tuple[PivotNet, Config]:
    """The network of the options on ``device``, in eval mode.

    Raises:
        PivotNetError: the checkpoint cannot be used, or the batch is empty.
    """
    if args.batch_size < 1:
        raise PivotNetError(f"--batch-size is {args.batch_size}: give 1 or more")
    set_reduced_precision(False)
    return load_model(args.ckpt, device, args.preset)


def build_sample_loader(
    args: argparse.Namespace, config: Config, tokens: Sequence[str], ranks: Ranks, device: torch.device
) -> Loader:
    """Batches of this rank's share of ``tokens``, without targets."""
    return build_loader(
        config,
        args.data_root,
        list(tokens),
        sampler=EvaluationSampler(len(tokens), args.batch_size, rank=ranks.rank, world_size=ranks.world_size),
        with_targets=False,
        workers=args.workers,
        device=device,
        local_ranks=ranks.local_world_size,
    )
