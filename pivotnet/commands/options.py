"""Options that several commands share, and what they stand for."""

import argparse
import os

from pivotnet.annotation.folder import DEFAULT_DATA_ROOT, SPLITS
from pivotnet.commands import batch_size, workers
from pivotnet.config import PRESETS
from pivotnet.device import select_device, set_reduced_precision
from pivotnet.distributed import ranks_from_environment
from pivotnet.evaluation.inference import Predictor
from pivotnet.model.pivotnet import load_model


def add_prediction_arguments(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """The options that choose a network, ``required`` or not, and the samples that it sees."""
    add = parser.add_argument
    add("--ckpt", metavar="CKPT", required=required, help="checkpoint, ours or upstream's")
    add("--preset", choices=list(PRESETS), help="of a checkpoint of upstream; ours know theirs")
    add("--device", help="npu, cuda or cpu, also npu:1 (default: the first that works)")
    add("--batch-size", type=batch_size, default=1, metavar="N", help="samples at once (default: 1)")
    add("--workers", type=workers, metavar="N", help="processes that load and score (default: by cores)")
    root, text = os.environ.get("DATA_ROOT", DEFAULT_DATA_ROOT), "annotated nuScenes tree (DATA_ROOT, else %(default)s)"
    add("--data-root", default=root, metavar="ROOT", help=text)
    add("--split", choices=SPLITS, default="val", help="samples of this split (default: %(default)s)")
    text = "these samples of either split instead, or a file that lists them, one per line"
    add("--tokens", nargs="+", metavar="TOKEN", help=text)


def load_predictor(args: argparse.Namespace) -> Predictor:
    """The network of the options on this rank's device, and the data that it reads."""
    ranks = ranks_from_environment()
    device = select_device(args.device, ranks.local_rank)
    set_reduced_precision(False)
    model, config = load_model(args.ckpt, device, args.preset)
    return Predictor(model, config, device, args.data_root, args.batch_size, args.workers, ranks)
