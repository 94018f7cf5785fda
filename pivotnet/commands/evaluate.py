"""``pivotnet evaluate``: predict a split, or take results that are there, and print the AP table."""

from __future__ import annotations

import argparse
from pathlib import Path

from pivotnet.annotation.folder import chosen_tokens
from pivotnet.commands.options import add_prediction_arguments, load_predictor
from pivotnet.config import MapConfig
from pivotnet.device import select_device
from pivotnet.distributed import agreed, process_group, ranks_from_environment
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.results import FORMATS, results_folder
from pivotnet.evaluation.score import format_table, score_results, write_table


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Predict a split and print AP at .2 .5 1 1.5 m, or score the result files of --results if there is no --ckpt. "
        "Result files of the same checkpoint are kept, so an interrupted run goes on where it stopped. "
        "Under torchrun every rank predicts its share."
    )
    add_prediction_arguments(parser)
    add = parser.add_argument
    add("--results", metavar="DIR", help="folder of result files (default: results_<checkpoint> beside the checkpoint)")
    text = "of the result files; upstream: its eval.py reads them (their default folder ends in _upstream)"
    add("--format", choices=FORMATS, default=FORMATS[0], help=text)
    add("--output", metavar="JSON", help="the table as JSON (default: ap_<split>.json in --results)")


def run(args: argparse.Namespace) -> int:
    if not args.ckpt and not args.results:
        raise PivotNetError("nothing to evaluate: give --ckpt to predict, or --results with result files")
    suffix = "_upstream" if args.format == "upstream" else ""
    folder = Path(args.results or f"{results_folder(args.ckpt)}{suffix}")
    if args.ckpt:
        ranks = ranks_from_environment()
        with process_group(ranks, select_device(args.device, ranks.local_rank)):
            with agreed(ranks):
                tokens = chosen_tokens(args.data_root, args.split, args.tokens)
                predictor = load_predictor(args)
            result = predictor.evaluate(args.ckpt, tokens, folder, layout=args.format)
    else:
        tokens = chosen_tokens(args.data_root, args.split, args.tokens)
        result = score_results(folder, args.data_root, tokens, MapConfig().resolution, args.workers)
    if result is None:  # another rank has it
        return 0
    name = "tokens" if args.tokens else args.split
    output = Path(args.output or folder / f"ap_{name}.json")
    print(format_table(result.ap))
    percent = write_table(output, result, name, folder)["average"]["percent"]
    means = f"mAP_hard {percent['mAP_hard']}, mAP_easy {percent['mAP_easy']} (percent)"
    print(f"{means} over {result.samples} samples -> {output}")
    return 0
