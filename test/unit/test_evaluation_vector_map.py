"""Vector maps: pixels to metres, and the JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pivotnet.config import MapConfig
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.results import MapInstances
from pivotnet.evaluation.vector_map import load_vector_map, pixels_to_ego, predicted_lines, save_vector_map

MAP = MapConfig()


def test_pixels_to_metres_in_the_ego_frame() -> None:
    corners = np.array([[0, 0], [0, 200], [400, 0], [200, 100], [100, 50]])

    expected = [[30, 15], [30, -15], [-30, 15], [0, 0], [15, 7.5]]

    np.testing.assert_allclose(pixels_to_ego(corners, MAP), expected, atol=1e-12)


def test_written_and_read(tmp_path: Path) -> None:
    instances = MapInstances(
        [np.array([[0.0, 100.0], [400.0, 101.0]], np.float32), np.array([[10.0, 20.0], [10.0, 180.0]], np.float32)],
        np.array([0.75, 0.5], np.float32),
        np.array([0, 1]),
    )
    path = tmp_path / "abc.json"

    save_vector_map(path, "abc", predicted_lines(instances, MAP), "run/best.pth", MAP)

    content = json.loads(path.read_text())
    assert (content["format"], content["version"], content["token"]) == ("pivotnet-vector-map", 1, "abc")
    assert content["checkpoint"] == "run/best.pth"
    assert content["range"] == {"x": [-30.0, 30.0], "y": [-15.0, 15.0]}
    assert [entry["class"] for entry in content["instances"]] == ["divider", "ped_crossing"]
    assert content["instances"][0]["points"] == [[30.0, 0.0], [-30.0, -0.15]]
    lines = load_vector_map(path)
    assert [line.label for line in lines] == [0, 1]
    assert [line.score for line in lines] == [0.75, 0.5]
    np.testing.assert_allclose(lines[1].points, [[28.5, 12], [28.5, -12]])


HEAD = '{"format": "pivotnet-vector-map", "version": 1, "instances": [{"score": 1, '


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read"),
        ("", "truncated or no JSON"),
        ("[1]", "no vector map"),
        ('{"format": "other", "version": 1}', "no vector map"),
        ('{"format": "pivotnet-vector-map", "version": 2, "instances": []}', "no vector map"),
        (HEAD + '"class": "sea", "points": [[0, 0]]}]}', "no vector map"),
        (HEAD + '"class": "divider", "points": [0]}]}', "no vector map"),
    ],
)
def test_what_is_no_vector_map_is_reported(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "abc.json"
    if text is not None:
        path.write_text(text)

    with pytest.raises(PivotNetError, match=f"({message} .*abc.json|abc.json is {message}).*pivotnet predict"):
        load_vector_map(path)
