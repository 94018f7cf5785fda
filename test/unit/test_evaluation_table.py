"""The table where a class is missing; test/golden has upstream's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pivotnet.evaluation.ap import ApResult
from pivotnet.evaluation.ap_table import format_table, write_table


def test_a_class_that_no_sample_has(tmp_path: Path) -> None:
    sums = np.array([[1, 2, 3, 4], [0, 0, 0, 0], [0.8, 0.8, 0.8, 0.8]], np.float32)
    result = ApResult(sums, np.array([4, 0, 4]), samples=5)
    (tmp_path / "run.json").write_text('{"checkpoint": "a.pth", "fingerprint": "0", "preset": "swint"}')

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
