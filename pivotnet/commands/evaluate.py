"""``pivotnet evaluate``: predict a split, or take results that are there, and print the AP table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Optional

import torch

from pivotnet.commands.options import add_network_arguments, add_sample_arguments, build_sample_loader, load_network
from pivotnet.config import MapConfig
from pivotnet.data.tokens import chosen_tokens
from pivotnet.device import select_device
from pivotnet.distributed import (
    CollectiveError,
    Ranks,
    agree,
    gather_objects,
    process_group,
    ranks_from_environment,
)
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.ap import ApResult
from pivotnet.evaluation.inference import evaluate_model
from pivotnet.evaluation.results import describe_run, has_result, read_run
from pivotnet.evaluation.score import require_annotations, score_results
from pivotnet.evaluation.table import format_table, table_dict, write_table


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``pivotnet evaluate``."""
    parser.description = (
        "Predict a split and print AP at .2 .5 1 1.5 m, or score the result files of --results if there is no --ckpt. "
        "Result files of the same checkpoint are kept, so an interrupted run goes on where it stopped. "
        "Under torchrun every rank predicts its share."
    )
    add_network_arguments(parser)
    add_sample_arguments(parser)
    parser.add_argument(
        "--results", metavar="DIR", help="folder of result files (default: results_<checkpoint> beside the checkpoint)"
    )
    parser.add_argument("--output", metavar="JSON", help="the table as JSON (default: ap_<split>.json in --results)")


def run(args: argparse.Namespace) -> int:
    """Print the table and write it as JSON."""
    if args.ckpt is not None:
        return _predict_and_score(args)
    if args.results is None:
        raise PivotNetError("nothing to evaluate: give --ckpt to predict, or --results with result files")
    tokens = _annotated_tokens(args)
    result = score_results(args.results, args.data_root, tokens, MapConfig().resolution, args.workers)
    _report(args, result, Path(args.results))
    return 0


def _annotated_tokens(args: argparse.Namespace) -> list[str]:
    tokens = chosen_tokens(args.data_root, args.split, args.tokens)
    require_annotations(args.data_root, tokens)
    return tokens


def _predict_and_score(args: argparse.Namespace) -> int:
    ranks = ranks_from_environment()
    device = select_device(args.device, ranks.local_rank)
    folder = Path(args.results or Path(args.ckpt).parent / f"results_{Path(args.ckpt).stem}")
    try:
        with process_group(ranks, device):
            result = _evaluate_checkpoint(args, folder, ranks, device)
    except CollectiveError:
        if ranks.main:
            raise
        return 2
    if result is not None:  # the main rank
        _report(args, result, folder)
    return 0


def _evaluate_checkpoint(
    args: argparse.Namespace, folder: Path, ranks: Ranks, device: torch.device
) -> Optional[ApResult]:
    error: Optional[PivotNetError] = None
    try:
        tokens = _annotated_tokens(args)
        model, config = load_network(args, device)
    except PivotNetError as caught:
        error = caught
    agree(error, ranks)
    # One rank looks, before any of them writes.
    left = [token for token in tokens if not has_result(folder, token)] if ranks.main else None
    left = gather_objects(left, ranks)[0]
    if ranks.main and len(left) < len(tokens):
        print(f"{len(tokens) - len(left)} of {len(tokens)} samples have results in {folder}; predicting the rest")
    return evaluate_model(
        model,
        build_sample_loader(args, config, left, ranks, device),
        config=config,
        device=device,
        data_root=args.data_root,
        tokens=tokens,
        folder=folder,
        run=describe_run(args.ckpt, config.name) if ranks.main else {},
        main=ranks.main,
        agree=lambda error: agree(error, ranks),
        workers=args.workers,
    )


def _report(args: argparse.Namespace, result: ApResult, folder: Path) -> None:
    name = "tokens" if args.tokens else args.split
    output = Path(args.output or folder / f"ap_{name}.json")
    print(format_table(result.ap))
    write_table(output, result, split=name, **read_run(folder))
    average = table_dict(result)["average"]["percent"]
    print(
        f"mAP_hard {average['mAP_hard']}, mAP_easy {average['mAP_easy']} (percent) "
        f"over {result.samples} samples -> {output}"
    )
