"""Result files against annotations: the AP of a set of samples, over the cores of the machine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from pivotnet.annotation.folder import require_annotations, require_files, sample_path
from pivotnet.annotation.format import INSTANCE_MASK, check_thin_mask
from pivotnet.annotation.npz import read_npz
from pivotnet.config import CLASSES
from pivotnet.console import progress
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.ap import THRESHOLDS, ApResult, accumulate, sample_ap
from pivotnet.evaluation.results import load_result, result_path
from pivotnet.files import PathLike
from pivotnet.pool import available_cores, run_in_pool
from pivotnet.schema import check

SAMPLES_PER_WORKER = 200  # a process costs about as much time to start as these samples take
_TRUTH = {"instance_mask": INSTANCE_MASK}
CHUNK = 8  # samples that a process scores before it reports


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
    pairs = [(result_path(results, token), sample_path(data_root, token)) for token in tokens]
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
        pairs: in the order in which AP is added up.
        resolution: metres a pixel.
        workers: processes; as many as pay off by default.
        quiet: no progress bar.
        start_method: of the processes. A fork of a process that holds a device or threads may hang; a spawned process
            runs the main module again if nothing guards it.

    Raises:
        PivotNetError: a file is missing or damaged.
    """
    if workers is None:
        workers = min(available_cores(), len(pairs) // SAMPLES_PER_WORKER)
    chunks = [(start, pairs[start : start + CHUNK]) for start in range(0, len(pairs), CHUNK)]
    job = partial(_score, resolution=resolution)
    per_sample = np.empty((len(pairs), len(CLASSES), len(THRESHOLDS)), np.float32)
    scored = run_in_pool(job, chunks, workers, start_method)
    for start, rows in progress(scored, "evaluate", len(chunks), quiet):
        per_sample[start : start + CHUNK] = rows
    return accumulate(per_sample)


def _score(chunk: tuple[int, Sequence[tuple[Path, Path]]], resolution: float) -> tuple[int, list[np.ndarray]]:
    """AP of some samples, float32 [C, 4] each, after the index of the first."""
    start, pairs = chunk
    rows = []
    for result_file, annotation_file in pairs:
        drawn, instances = load_result(result_file)
        truth = read_npz(annotation_file, _TRUTH)["instance_mask"]
        check(partial(check_thin_mask, "instance_mask"), truth, annotation_file, "delete it and annotate again")
        rows.append(sample_ap(drawn, instances.scores, truth, resolution))
    return start, rows
