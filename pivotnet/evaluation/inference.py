"""Runs a network over samples: polylines one after the other, result files, or the AP of a split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Callable, Optional, Protocol

import torch
from torch import nn

from pivotnet.config import Config, MapConfig
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.ap import ApResult
from pivotnet.evaluation.instances import MapInstances
from pivotnet.evaluation.postprocess import draw_mask, postprocess
from pivotnet.evaluation.progress import progress
from pivotnet.evaluation.results import SampleResult, open_folder, result_path, save_result
from pivotnet.evaluation.score import score_results
from pivotnet.files import PathLike
from pivotnet.structures import Batch


class BatchSource(Protocol):
    """What ``data.dataset.build_loader`` gives."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


def predict(
    model: nn.Module, loader: BatchSource, map_config: MapConfig, device: torch.device, quiet: bool = False
) -> Iterator[tuple[str, MapInstances]]:
    """Token and polylines of every sample of ``loader``; the model is left in the mode in which it was.

    Raises:
        PivotNetError: a sample cannot be read, or the network predicts NaN.
    """
    training = model.training
    model.eval()
    try:
        for batch in progress(loader, "predict", len(loader), quiet):
            # no_grad around the call, not around the yield: the caller's code runs in between
            with torch.no_grad():
                inputs = batch.to(device, non_blocking=True)
                predictions = model(inputs.images, inputs.reference_points, inputs.reference_valid, final_only=True)
                instances = postprocess(predictions, map_config)
            yield from zip(batch.tokens, instances)
    finally:
        model.train(training)


def write_results(
    model: nn.Module,
    loader: BatchSource,
    map_config: MapConfig,
    device: torch.device,
    folder: PathLike,
    quiet: bool = False,
) -> None:
    """A result file in ``folder`` for every sample of ``loader``.

    Raises:
        PivotNetError: a sample cannot be read, the network predicts NaN, or the disk is full.
    """
    for token, instances in predict(model, loader, map_config, device, quiet):
        save_result(result_path(folder, token), SampleResult(draw_mask(instances, map_config), instances))


def raise_error(error: Optional[PivotNetError]) -> None:
    """What the ranks agree on if there is only one: its own error."""
    if error is not None:
        raise error


def evaluate_model(
    model: nn.Module,
    loader: BatchSource,
    *,
    config: Config,
    device: torch.device,
    data_root: PathLike,
    tokens: Sequence[str],
    folder: PathLike,
    run: dict[str, Any],
    main: bool = True,
    agree: Callable[[Optional[PivotNetError]], None] = raise_error,
    workers: Optional[int] = None,
    quiet: bool = False,
) -> Optional[ApResult]:
    """Predict the samples of ``loader`` and score all of ``tokens``. With several ranks, every rank calls this.

    Args:
        model: the network, not wrapped for distribution.
        loader: batches of this rank's share of the samples that have no result file yet.
        config: the model's.
        device: where the model is.
        data_root: nuScenes root with annotated files.
        tokens: all samples to score.
        folder: where result files go; all ranks must see the same folder.
        run: who makes the results (``results.describe_run``).
        main: whether this rank makes the folder, shows progress and scores.
        agree: waits for all ranks, and raises in all of them when one brings an error.
        workers: scoring processes; chosen by default.
        quiet: no progress bars.

    Returns:
        the AP in the main rank, None in the others.

    Raises:
        PivotNetError: see ``write_results`` and ``score_results``; or ``folder`` holds results of another run.
    """
    error: Optional[PivotNetError] = None
    try:
        if main:
            open_folder(folder, run)
    except PivotNetError as caught:
        error = caught
    agree(error)
    try:
        write_results(model, loader, config.map, device, folder, quiet or not main)
    except PivotNetError as caught:
        error = caught
    agree(error)
    if not main:
        return None
    return score_results(folder, data_root, tokens, config.map.resolution, workers, quiet)
