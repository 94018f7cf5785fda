"""Result files against annotations: the AP of a set of samples, over the cores of the machine, and its table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pivotnet.annotation.folder import require_annotations, require_files, sample_path
from pivotnet.annotation.format import INSTANCE_MASK, check_thin_mask
from pivotnet.annotation.npz import read_npz
from pivotnet.config import CLASSES
from pivotnet.console import progress
from pivotnet.evaluation.ap import THRESHOLDS, ApResult, accumulate, sample_ap
from pivotnet.evaluation.results import load_result, read_run, result_path
from pivotnet.files import PathLike, write_json
from pivotnet.pool import available_cores, run_in_pool
from pivotnet.schema import check

SAMPLES_PER_WORKER = 200  # a process costs about as much time to start as these samples take
_TRUTH = {"instance_mask": INSTANCE_MASK}
CHUNK = 8  # samples handed to a worker at once
_HEADER = ("Class", "AP@.2", "AP@.5", "AP@1.", "AP@1.5", "mAP@HARD", "mAP@EASY")
_ROW_NAMES = ("Divider", "PedCross", "Contour", "Average")  # upstream's names of config.CLASSES


def score_results(
    results: PathLike, data_root: PathLike, tokens: Sequence[str], resolution: float, workers: int | None = None
) -> ApResult:
    """AP of the result files of ``tokens`` in the folder ``results``, against the annotated files of a nuScenes root.
    Raises PivotNetError: a file is missing or damaged."""
    require_files(results, tokens, "result file", "predict them with pivotnet evaluate --ckpt")
    require_annotations(data_root, tokens)
    pairs = [(result_path(results, token), sample_path(data_root, token)) for token in tokens]
    return score_files(pairs, resolution, workers)


def score_files(
    pairs: Sequence[tuple[Path, Path]], resolution: float, workers: int | None = None, start_method: str = "spawn"
) -> ApResult:
    """AP of result files, each with its annotated file, added up in their order; ``resolution`` is in metres a pixel.
    As many worker processes as pay off by default. Raises PivotNetError: a file is missing or damaged.
    ``start_method``: a fork of a process that holds a device or threads may hang; a spawned process runs the main
    module again if nothing guards it."""
    if workers is None:
        workers = min(available_cores(), len(pairs) // SAMPLES_PER_WORKER)
    scored = run_in_pool(partial(_score, resolution=resolution), pairs, workers, start_method, CHUNK)
    per_sample = list(progress(scored, "evaluate", len(pairs)))
    return accumulate(np.array(per_sample, np.float32).reshape(-1, len(CLASSES), len(THRESHOLDS)))


def _score(pair: tuple[Path, Path], resolution: float) -> np.ndarray:
    """AP of a sample, float32 [C, 4]."""
    result_file, annotation_file = pair
    drawn, instances = load_result(result_file)
    truth = read_npz(annotation_file, _TRUTH)["instance_mask"]
    check(partial(check_thin_mask, "instance_mask"), truth, annotation_file, "delete it and annotate again")
    return sample_ap(drawn, instances.scores, truth, resolution)


def table_values(ap: np.ndarray) -> np.ndarray:
    """Rows of the table of ``ap`` (float32 [C, 4], fractions), float32 [C + 1, 6]: AP at the four thresholds, mean of
    the three hard ones (.2 .5 1), mean of the three easy ones (.5 1 1.5); the last row is the average of the
    classes."""
    rows = np.array([[*row, np.mean(row[:-1]), np.mean(row[1:])] for row in ap], np.float32)
    return np.concatenate([rows, np.mean(rows, axis=0, keepdims=True)])


def format_table(ap: np.ndarray) -> str:
    """The table in percent with one decimal, character for character as upstream prints it: it drops a zero after the
    point ("45.0" becomes "45") and then sets the points of a column under each other."""
    texts = [[f"{_percent(value):g}" for value in row] for row in table_values(ap)]
    columns = [_ROW_NAMES, *map(_align, zip(*texts))]
    widths = [max(len(name) + 2, *map(len, column)) for name, column in zip(_HEADER, columns)]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    lines = [rule]
    for name, *values in (_HEADER, *zip(*columns)):
        cells = [name.ljust(widths[0]), *(text.rjust(width) for text, width in zip(values, widths[1:]))]
        lines += ["| " + " | ".join(cells) + " |", rule]
    lines[2] = rule.replace("-", "=")
    return "\n".join(lines)


def _percent(fraction: np.float32) -> float:
    """Percent with one decimal; multiplied in float64, as numpy 1 does for upstream."""
    return float(f"{float(fraction) * 100:.1f}")


def _align(texts: Sequence[str]) -> list[str]:
    """Pads numbers so that their decimal points lie in one column when their ends do."""
    tails = [len(text) - text.index(".") if "." in text else 0 for text in texts]
    return [text + " " * (max(tails) - tail) for text, tail in zip(texts, tails)]


def table_dict(result: ApResult) -> dict[str, Any]:
    """The table for machines: fractions unrounded, percent as printed; null where no sample has the class.
    ``{"samples": N, "thresholds": [...], "classes": {class: {"samples", "AP": {threshold: fraction}, "mAP_hard",
    "mAP_easy", "percent": {...}}}, "average": {...}, "mAP_hard": fraction, "mAP_easy": fraction}``"""
    *entries, average = [{**_entry(row, float), "percent": _entry(row, _percent)} for row in table_values(result.ap)]
    return {
        "samples": result.samples,
        "thresholds": list(THRESHOLDS),
        "classes": {
            name: {"samples": int(count), **entry} for name, count, entry in zip(CLASSES, result.counts, entries)
        },
        "average": average,
        "mAP_hard": average["mAP_hard"],
        "mAP_easy": average["mAP_easy"],
    }


def _entry(row: np.ndarray, convert: Callable[[np.float32], float]) -> dict[str, Any]:
    *by_threshold, hard, easy = (None if math.isnan(value) else convert(value) for value in row)
    return {"AP": dict(zip(map(str, THRESHOLDS), by_threshold)), "mAP_hard": hard, "mAP_easy": easy}


def write_table(path: PathLike, result: ApResult, split: str, folder: PathLike) -> dict[str, Any]:
    """Write ``table_dict`` as JSON, with the name of the split and what ``folder`` of results says of its run; returns
    ``table_dict``. Raises PivotNetError: the file cannot be written."""
    table = table_dict(result)
    write_json(path, {"split": split, **read_run(folder), **table})
    return table
