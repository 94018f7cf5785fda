"""The table as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pivotnet.evaluation.ap import ApResult
from pivotnet.evaluation.ap_table import format_table, write_table

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


def test_a_class_that_no_sample_has(tmp_path: Path) -> None:
    result = ApResult(AP * np.float32([[4], [0], [4]]), np.array([4, 0, 4]), 5)
    (tmp_path / "run.json").write_text('{"checkpoint": "a.pth"}')

    write_table(tmp_path / "ap.json", result, "val", tmp_path)

    content = json.loads((tmp_path / "ap.json").read_text())
    divider, crossing, boundary = content["classes"].values()
    assert (content["split"], content["checkpoint"], content["samples"]) == ("val", "a.pth", 5)
    assert divider["AP"] == {"0.2": 0.25, "0.5": 0.5, "1.0": 0.75, "1.5": 1.0} and boundary["samples"] == 4
    assert divider["percent"]["mAP_easy"] == 75.0
    assert crossing["AP"]["0.5"] is None and content["mAP_hard"] is None
    lines = format_table(result.ap).splitlines()
    assert lines[5].split("|")[2:4] == ["     nan ", "     nan "] and "nan" in lines[9]
    assert len({len(line) for line in lines}) == 1
