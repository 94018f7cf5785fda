"""Evaluation at the end of a training run, by its own ranks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pivotnet.config import Config
from pivotnet.data.dataset import build_loader
from pivotnet.data.sampler import EvaluationSampler
from pivotnet.distributed import Ranks, agree
from pivotnet.evaluation.inference import evaluate_model
from pivotnet.evaluation.results import describe_run
from pivotnet.evaluation.table import format_table, table_dict, write_table
from pivotnet.files import PathLike
from pivotnet.training.monitor import Monitor


def evaluate_splits(
    model: nn.Module,
    checkpoint: Path,
    config: Config,
    splits: Mapping[str, list[str]],
    data_root: PathLike,
    *,
    workers: int | None,
    device: torch.device,
    ranks: Ranks,
    monitor: Monitor,
) -> dict[str, Any]:
    """Score the network on some splits, as ``pivotnet evaluate`` does; every rank calls this.

    Args:
        model: with the weights that ``checkpoint`` holds; not wrapped for distribution.
        checkpoint: results go into the folder results_<its name> beside it.
        config: the model's.
        splits: {name: tokens}.
        data_root: annotated nuScenes tree.
        workers: loading processes of a rank; chosen by default.
        device: where the model is.
        ranks: this process among the others.
        monitor: shows the tables.

    Returns:
        {name: evaluation's table as a dict} in rank 0, {} in the others.
    """
    tables = {}
    folder = checkpoint.parent / f"results_{checkpoint.stem}"
    for name, tokens in splits.items():
        loader = build_loader(
            config,
            data_root,
            tokens,
            sampler=EvaluationSampler(
                len(tokens), config.optim.batch_size, rank=ranks.rank, world_size=ranks.world_size
            ),
            with_targets=False,
            workers=workers,
            device=device,
            local_ranks=ranks.local_world_size,
        )
        result = evaluate_model(
            model,
            loader,
            config=config,
            device=device,
            data_root=data_root,
            tokens=tokens,
            folder=folder,
            run=describe_run(checkpoint, config.name) if ranks.main else {},
            main=ranks.main,
            agree=lambda error: agree(error, ranks),
        )
        if result is not None:
            tables[name] = table_dict(result)
            write_table(folder / f"ap_{name}.json", result, split=name, checkpoint=str(checkpoint), preset=config.name)
            monitor.say(f"{name} split, {len(tokens)} samples:\n{format_table(result.ap)}")
    return tables
