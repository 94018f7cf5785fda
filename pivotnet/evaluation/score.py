"""Result files against annotations: the AP of a set of samples, over the cores of the machine."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pivotnet.annotation.format import FOLDER
from pivotnet.annotation.npz import read_npz
from pivotnet.console import progress
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.ap import ApResult, accumulate, sample_ap
from pivotnet.evaluation.results import load_result, require_files, result_path
from pivotnet.files import PathLike

SAMPLES_PER_WORKER = 200  # a process costs about as much time to start as these samples take


def require_annotations(data_root: PathLike, tokens: Sequence[str]) -> None:
    """Check that every sample has an annotated file.

    Raises:
        PivotNetError: some are missing; the message names the first.
    """
    require_files(Path(data_root) / FOLDER, tokens, "annotation", f"run pivotnet annotate -d {data_root}")


def score_results(
    results: PathLike,
    data_root: PathLike,
    tokens: Sequence[str],
    resolution: float,
    workers: int | None = None,
    quiet: bool = False,
) -> ApResult:
    """AP of the result files of ``tokens`` in the folder ``results``, against the annotated files of a nuScenes root.

    Raises:
        PivotNetError: a file is missing or damaged.
    """
    if not tokens:
        raise PivotNetError("there are no samples to evaluate: the split is empty")
    require_files(results, tokens, "result file", "predict them with pivotnet evaluate --ckpt")
    require_annotations(data_root, tokens)
    folder = Path(data_root) / FOLDER
    pairs = [(result_path(results, token), folder / f"{token}.npz") for token in tokens]
    return score_files(pairs, resolution, workers, quiet)


def score_files(
    pairs: Sequence[tuple[Path, Path]],
    resolution: float,
    workers: int | None = None,
    quiet: bool = False,
    start_method: str = "spawn",
) -> ApResult:
    """AP of result files, each with its annotated file.

    Args:
        pairs: at least one, in the order in which AP is added up.
        resolution: metres a pixel.
        workers: processes; as many as pay off by default.
        quiet: no progress bar.
        start_method: of the processes. A fork of a process that holds a device or threads may hang; a spawned process
            runs the main module again if nothing guards it.

    Raises:
        PivotNetError: a file is missing or damaged, or the two are of different sizes.
    """
    jobs = [(*pair, resolution) for pair in pairs]
    if workers is None:
        workers = min(os.cpu_count() or 1, len(jobs) // SAMPLES_PER_WORKER)
    if workers <= 1:
        return accumulate(np.stack(list(progress(map(_score, jobs), "evaluate", len(jobs), quiet))))
    with multiprocessing.get_context(start_method).Pool(workers) as pool:
        scored = pool.imap(_score, jobs, chunksize=8)
        return accumulate(np.stack(list(progress(scored, "evaluate", len(jobs), quiet))))


def _score(job: tuple[Path, Path, float]) -> np.ndarray:
    """AP of one sample, float32 [C, 4]; NaN for classes without a line."""
    result_file, annotation_file, resolution = job
    drawn, instances = load_result(result_file)
    truth = read_npz(annotation_file, ["instance_mask"])["instance_mask"]
    if truth.shape != drawn.shape:
        raise PivotNetError(
            f"the map in {result_file} is {drawn.shape}, in {annotation_file} {truth.shape}: "
            "predict and annotate with the same map size"
        )
    return sample_ap(drawn, instances.scores, truth, resolution)
