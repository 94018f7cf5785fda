"""The options that choose a network and its device, and the network that they choose."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pivotnet.config import PRESETS, Config

if TYPE_CHECKING:
    import torch

    from pivotnet.model.pivotnet import PivotNet
    from pivotnet.training.distributed import Ranks


def add_network_arguments(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """The options --ckpt, --preset, --device, --batch-size and --workers."""
    parser.add_argument("--ckpt", metavar="CKPT", required=required, help="checkpoint, ours or upstream's")
    parser.add_argument("--preset", choices=list(PRESETS), help="of a checkpoint of upstream; ours know theirs")
    parser.add_argument("--device", help="npu, cuda or cpu, also npu:1 (default: the first that works)")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="samples at once (default: 1)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that load and score (default: by cores)")


def load_network(args: argparse.Namespace) -> tuple[Ranks, torch.device, PivotNet, Config]:
    """The network of the options on this rank's device, in eval mode.

    Raises:
        PivotNetError: the checkpoint or the device cannot be used.
    """
    # Imported here: training comes after evaluation.
    from pivotnet.device import select_device, set_reduced_precision
    from pivotnet.errors import PivotNetError
    from pivotnet.training.checkpoint import load_model
    from pivotnet.training.distributed import ranks_from_environment

    if args.batch_size < 1:
        raise PivotNetError(f"--batch-size is {args.batch_size}: give 1 or more")
    ranks = ranks_from_environment()
    device = select_device(args.device, ranks.local_rank)
    set_reduced_precision(False)
    model, config = load_model(args.ckpt, device, args.preset)
    return ranks, device, model, config
