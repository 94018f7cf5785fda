"""The picture of a benchmark's JSON, and files that are none."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
from benchmarks.pair import Measurement
from benchmarks.picture import draw, read_measured, run_draw
from benchmarks.report import Report

from pivotnet.errors import PivotNetError


def measured(path: Path, *names: str) -> Path:
    """What a benchmark of those sides leaves: the first needs 1, the second 4 seconds of work a round."""
    sides = [Measurement(name) for name in names]
    for one, seconds in zip(sides, (1.0, 4.0)):
        one.add({"work": (seconds, seconds), "rest": (seconds / 2, seconds / 2)})
    Report("step", path).pair("step of swint", sides)
    return path


def texts(figure: Any) -> list[str]:
    return [text.get_text().strip() for axis in figure.axes for text in axis.texts]


def test_bars_are_the_medians_and_say_the_ratio(tmp_path):
    figure = draw([read_measured(measured(tmp_path / "pair.json", "ours", "other"))])
    assert [bar.get_width() for bar in figure.axes[0].patches] == [1.0, 0.5, 1.5, 4.0, 2.0, 6.0]
    assert texts(figure) == ["1   ratio 0.25", "0.5   ratio 0.25", "1.5   ratio 0.25", "4", "2", "6"]


def test_one_side_alone_has_no_ratio(tmp_path):
    assert texts(draw([read_measured(measured(tmp_path / "one.json", "ours"))])) == ["1", "0.5", "1.5"]


def test_several_files_are_panels_of_one_picture(tmp_path):
    contents = [read_measured(measured(tmp_path / name, "ours", "other")) for name in ("a.json", "b.json")]
    assert [axis.get_title(loc="left") for axis in draw(contents).axes] == ["step of swint"] * 2


def test_the_legend_names_every_side_in_its_colour(tmp_path):
    sides = (("ours",), ("ours", "upstream"), ("ours", "port"))
    figure = draw([read_measured(measured(tmp_path / "".join(names), *names)) for names in sides])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["ours", "upstream", "port"]
    colours = [{bar.get_facecolor() for bar in axis.patches} for axis in figure.axes]
    assert [len(found) for found in colours] == [1, 2, 2]
    assert colours[0] < colours[1] and len(colours[1] | colours[2]) == 3


def command(source: Path, picture: Path) -> None:
    run_draw(argparse.Namespace(measured=[source], picture=picture))


@pytest.mark.parametrize(("kind", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_the_command_writes_the_picture(tmp_path, kind, start):
    picture = tmp_path / f"picture.{kind}"
    command(measured(tmp_path / "pair.json", "ours", "other"), picture)
    assert picture.read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file"),
        ("{", "is no benchmark's JSON"),
        ("[]", "is no benchmark's JSON"),
        ('{"results": []}', "no measured seconds"),
        ('{"results": [{"ratios": {}, "sides": 3}]}', "is no benchmark's JSON"),
        ('{"results": [{"ratios": {}, "sides": [], "title": "a"}]}', "not one or two sides"),
        ('{"results": [{"ratios": {}, "sides": [{"wall": {"total": [1]}}], "title": "a"}]}', "KeyError: 'name'"),
        ('{"results": [{"ratios": null, "sides": [{"wall": {}, "name": "a"}], "title": "a"}]}', "AttributeError"),
        ('{"machine": null, "results": []}', "AttributeError"),
    ],
)
def test_what_is_no_measurement_is_refused(tmp_path, content, told):
    source = tmp_path / "what.json"
    if content is not None:
        source.write_text(content)
    with pytest.raises(PivotNetError, match=told):
        command(source, tmp_path / "picture.svg")
    assert not (tmp_path / "picture.svg").exists()


def test_unknown_kinds_of_pictures_are_refused(tmp_path):
    with pytest.raises(PivotNetError, match="should end in one of .svg"):
        command(measured(tmp_path / "pair.json", "ours"), tmp_path / "picture.bmp")
