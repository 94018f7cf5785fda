"""The AP table: as text, to be read beside upstream's, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pivotnet.config import CLASSES
from pivotnet.evaluation.ap import THRESHOLDS, ApResult
from pivotnet.evaluation.results import read_run
from pivotnet.files import PathLike, write_json

HEADER = ("Class", "AP@.2", "AP@.5", "AP@1.", "AP@1.5", "mAP@HARD", "mAP@EASY")
ROW_NAMES = ("Divider", "PedCross", "Contour", "Average")  # upstream's names of config.CLASSES


def table_values(ap: np.ndarray) -> np.ndarray:
    """Rows of the table, float32 [C + 1, 6]: AP at the four thresholds, mean of the three hard ones (.2 .5 1), mean of
    the three easy ones (.5 1 1.5); the last row is the average of the classes.

    Args:
        ap: float32 [C, 4], fractions.
    """
    rows = np.array([[*row, np.mean(row[:-1]), np.mean(row[1:])] for row in ap], np.float32)
    return np.concatenate([rows, np.mean(rows, axis=0, keepdims=True)])


def format_table(ap: np.ndarray) -> str:
    """The table in percent with one decimal, character for character as upstream prints it.

    Upstream's printer drops a zero after the point ("45.0" becomes "45") and then sets the points of a column under
    each other.
    """
    texts = [[f"{_percent(value):g}" for value in row] for row in table_values(ap)]
    columns = [ROW_NAMES, *map(_align, zip(*texts))]
    widths = [max(len(name) + 2, *map(len, column)) for name, column in zip(HEADER, columns)]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    lines = [rule]
    for name, *values in (HEADER, *zip(*columns)):
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
    "mAP_easy", "percent": {...}}}, "average": {...}, "mAP_hard": fraction, "mAP_easy": fraction}``
    """
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
    """Writes ``table_dict`` as JSON, with the name of the split and what ``folder`` of results says of its run.

    Returns:
        ``table_dict(result)``.

    Raises:
        PivotNetError: the file cannot be written.
    """
    table = table_dict(result)
    write_json(path, {"split": split, **read_run(folder), **table})
    return table
