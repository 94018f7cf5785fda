"""Result files against annotations: the AP of a set of samples, over the cores of the machine."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Optional

import numpy as np

from pivotnet.annotation.format import FOLDER
from pivotnet.annotation.npz import read_npz
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.ap import ApResult, accumulate, sample_ap
from pivotnet.evaluation.progress import progress
from pivotnet.evaluation.results import load_drawn, require_results, result_path
from pivotnet.files import PathLike

SAMPLES_PER_WORKER = 200  # a process costs about as much time to start as these samples take


def score_sample(result_file: PathLike, annotation_file: PathLike, resolution: float) -> np.ndarray:
    """AP of one sample, float32 [C, 4]; NaN for classes without a line.

    Raises:
        PivotNetError: a file is missing or damaged, or the two are of different sizes.
    """
    drawn, scores = load_drawn(result_file)
    labels = read_npz(annotation_file, ["instance_mask"])["instance_mask"]
    if labels.shape != drawn.shape:
        raise PivotNetError(
            f"the map in {result_file} is {drawn.shape}, in {annotation_file} {labels.shape}: "
            "predict and annotate with the same map size"
        )
    return sample_ap(drawn, scores, labels, resolution)


def _score(job: tuple[Path, Path, float]) -> np.ndarray:
    return score_sample(*job)


def require_annotations(data_root: PathLike, tokens: Sequence[str]) -> None:
    """Check that every sample has an annotated file.

    Raises:
        PivotNetError: some are missing; the message names the first.
    """
    folder = Path(data_root) / FOLDER
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    missing = [token for token in tokens if f"{token}.npz" not in there]
    if missing:
        raise PivotNetError(
            f"{len(missing)} of {len(tokens)} samples have no annotation in {folder} (the first is {missing[0]}): "
            f"run pivotnet annotate -d {data_root}"
        )


def score_results(
    results: PathLike,
    data_root: PathLike,
    tokens: Sequence[str],
    resolution: float,
    workers: Optional[int] = None,
    quiet: bool = False,
) -> ApResult:
    """AP of the result files of ``tokens`` in the folder ``results``.

    Args:
        results: folder of result files.
        data_root: nuScenes root whose annotated files are the truth.
        tokens: samples, in the order in which AP is added up.
        resolution: metres a pixel.
        workers: processes; as many as pay off by default.
        quiet: no progress bar.

    Raises:
        PivotNetError: a file is missing or damaged.
    """
    if not tokens:
        raise PivotNetError("there are no samples to evaluate: the split is empty")
    require_results(results, tokens)
    require_annotations(data_root, tokens)
    folder = Path(data_root) / FOLDER
    jobs = [(result_path(results, token), folder / f"{token}.npz", resolution) for token in tokens]
    if workers is None:
        workers = min(os.cpu_count() or 1, len(jobs) // SAMPLES_PER_WORKER)
    if workers <= 1:
        return accumulate(_gather(map(_score, jobs), len(jobs), quiet))
    # Spawned, not forked: a fork of a process that holds a device or threads may hang.
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return accumulate(_gather(pool.imap(_score, jobs, chunksize=8), len(jobs), quiet))


def _gather(scored: Iterable[np.ndarray], total: int, quiet: bool) -> np.ndarray:
    """All samples' AP, float32 [N, C, 4]."""
    return np.stack(list(progress(scored, "evaluate", total, quiet)))
