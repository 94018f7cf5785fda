"""The AP table: as text, to be read beside upstream's, and as JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from pivotnet.config import CLASSES
from pivotnet.evaluation.ap import THRESHOLDS, ApResult
from pivotnet.files import PathLike, atomic_write

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
    cells = [[f"{_percent(value):g}" for value in row] for row in table_values(ap)]
    columns = [_align(list(column)) for column in zip(*cells)]
    rows = [[name, *values] for name, values in zip(ROW_NAMES, zip(*columns))]
    widths = [max(len(ROW_NAMES[1]), len(HEADER[0]) + 2)]
    widths += [max(len(name) + 2, len(column[0])) for name, column in zip(HEADER[1:], columns)]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    lines = [rule, _join(HEADER, widths), rule.replace("-", "=")]
    for row in rows:
        lines += [_join(row, widths), rule]
    return "\n".join(lines)


def _percent(fraction: np.float32) -> float:
    """Percent with one decimal; multiplied in float64, as numpy 1 does for upstream."""
    return float(f"{float(fraction) * 100:.1f}")


def _align(texts: list[str]) -> list[str]:
    """Pads numbers so that their decimal points lie in one column."""
    decimals = [len(text) - text.index(".") if "." in text else 0 for text in texts]
    padded = [text + " " * (max(decimals) - count) for text, count in zip(texts, decimals)]
    width = max(len(text) for text in padded)
    return [text.rjust(width) for text in padded]


def _join(cells: Any, widths: list[int]) -> str:
    first, *others = cells
    texts = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:]))]
    return "| " + " | ".join(texts) + " |"


def table_dict(result: ApResult) -> dict[str, Any]:
    """The table for machines: fractions unrounded, percent as printed; null where no sample has the class.

    ``{"samples": N, "thresholds": [...], "classes": {class: {"samples", "AP": {threshold: fraction}, "mAP_hard",
    "mAP_easy", "percent": {...}}}, "average": {...}, "mAP_hard": fraction, "mAP_easy": fraction}``
    """
    entries = [_entry(row) for row in table_values(result.ap)]
    classes = {name: {"samples": int(count), **entry} for name, count, entry in zip(CLASSES, result.counts, entries)}
    average = entries[-1]
    return {
        "samples": result.samples,
        "thresholds": list(THRESHOLDS),
        "classes": classes,
        "average": average,
        "mAP_hard": average["mAP_hard"],
        "mAP_easy": average["mAP_easy"],
    }


def _entry(row: np.ndarray) -> dict[str, Any]:
    keys = [str(threshold) for threshold in THRESHOLDS]
    fractions = [None if math.isnan(value) else float(value) for value in row]
    percent = [None if math.isnan(value) else _percent(value) for value in row]
    return {
        "AP": dict(zip(keys, fractions)),
        "mAP_hard": fractions[-2],
        "mAP_easy": fractions[-1],
        "percent": {"AP": dict(zip(keys, percent)), "mAP_hard": percent[-2], "mAP_easy": percent[-1]},
    }


def write_table(path: PathLike, result: ApResult, **more: Any) -> None:
    """Writes ``table_dict`` and ``more`` as JSON.

    Raises:
        PivotNetError: the file cannot be written.
    """
    with atomic_write(path, "w") as stream:
        json.dump({**more, **table_dict(result)}, stream, indent=1)
        stream.write("\n")
