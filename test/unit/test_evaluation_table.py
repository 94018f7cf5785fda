"""The table as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pivotnet.evaluation.ap import ApResult
from pivotnet.evaluation.ap_table import format_table, table_values, write_table

AP = np.array([[0.25, 0.5, 0.75, 1], [0, 0.1234, 0.45, 0.5], [0.2, 0.2, 0.2, 0.2]], np.float32)

TEXT = """\
+----------+---------+---------+---------+----------+------------+------------+
| Class    |   AP@.2 |   AP@.5 |   AP@1. |   AP@1.5 |   mAP@HARD |   mAP@EASY |
+==========+=========+=========+=========+==========+============+============+
| Divider  |      25 |    50   |    75   |    100   |       50   |       75   |
+----------+---------+---------+---------+----------+------------+------------+
| PedCross |       0 |    12.3 |    45   |     50   |       19.1 |       35.8 |
+----------+---------+---------+---------+----------+------------+------------+
| Contour  |      20 |    20   |    20   |     20   |       20   |       20   |
+----------+---------+---------+---------+----------+------------+------------+
| Average  |      15 |    27.4 |    46.7 |     56.7 |       29.7 |       43.6 |
+----------+---------+---------+---------+----------+------------+------------+"""


def test_text() -> None:
    assert format_table(AP) == TEXT


def test_hard_and_easy_are_means_of_three_thresholds() -> None:
    values = table_values(AP)

    assert values[0].tolist() == [0.25, 0.5, 0.75, 1, 0.5, 0.75]
    np.testing.assert_allclose(values[3], values[:3].mean(0), rtol=1e-6)


def test_a_class_that_no_sample_has_is_nan() -> None:
    ap = AP.copy()
    ap[1] = np.nan

    lines = format_table(ap).splitlines()

    assert lines[5].split("|")[2:4] == ["     nan ", "     nan "] and "nan" in lines[9]
    assert len({len(line) for line in lines}) == 1


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "ap.json"

    write_table(path, ApResult(AP * np.float32([[4], [0], [4]]), np.array([4, 0, 4]), 5), split="val")

    content = json.loads(path.read_text())
    divider, crossing, boundary = content["classes"].values()
    assert content["split"] == "val" and content["samples"] == 5 and boundary["samples"] == 4
    assert divider["AP"] == {"0.2": 0.25, "0.5": 0.5, "1.0": 0.75, "1.5": 1.0}
    assert divider["percent"]["mAP_easy"] == 75.0
    assert crossing["AP"]["0.5"] is None and content["mAP_hard"] is None
