"""What the patched tree's converter, evaluator and point sampling run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.divider_data import write_dividers, write_results

from pivotnet.annotation.format import FOLDER
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.score import format_table, score_results
from pivotnet.upstream.annotation import convert_annotations
from pivotnet.upstream.evaluation import ResultEvaluator, annotated_splits
from pivotnet.upstream.substitutes import get_uncertain_point_coords_with_randomness, point_sample

TOKENS = ["a", "b"]


def test_the_table_is_that_of_our_own_evaluation(tmp_path: Path, capsys) -> None:
    write_dividers(tmp_path, dict.fromkeys(TOKENS, 60))
    write_results(tmp_path / "results", {"a": 60, "b": 64})
    listed = tmp_path / "val.txt"
    listed.write_text("a\nb\n")
    folders = {"gt_dir": str(tmp_path / FOLDER), "dt_dir": str(tmp_path / "results"), "val_txt": str(listed)}
    ResultEvaluator(**folders).execute()
    wanted = score_results(tmp_path / "results", tmp_path, TOKENS, 0.15)
    assert capsys.readouterr().out == format_table(wanted.ap) + "\n"
    for split, word in (("night", "a"), ("day", "unknown")):
        (tmp_path / f"{split}.txt").write_text(f"{word}\n")
    lists = [str(tmp_path / f"{name}.txt") for name in ("val", "day", "night")]
    assert annotated_splits(lists, tmp_path / FOLDER) == [lists[0], lists[2]]
    assert capsys.readouterr().out.endswith(f"not annotated in {tmp_path / FOLDER}: day\n")
    with pytest.raises(PivotNetError, match="map_resolution"):
        ResultEvaluator(**folders, map_resolution=(0.15, 0.3))


def test_the_converter_takes_upstreams_options(monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(
        "pivotnet.upstream.annotation.annotate_on_terminal", lambda *words, **more: seen.append((*words, more))
    )
    convert_annotations(["-d", "root", "-v", "v1.0-mini", "v1.0-test", "--bezier"])
    assert seen == [("root", version, True, {"overwrite": False}) for version in ("v1.0-mini", "v1.0-test")]


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--thickness", "1", "5"], "the converter has thickness=[1, 5]"), ([], "")],
    ids=["unsupported", "no tables"],
)
def test_what_cannot_be_converted_is_one_line(tmp_path: Path, capsys, options, message) -> None:
    with pytest.raises(SystemExit) as stop:
        convert_annotations(["-d", str(tmp_path), *options])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith(f"error: {message}") and said.count("\n") == 1


def test_points_between_pixels_are_weighted() -> None:
    mask = torch.tensor([[0.0, 1.0], [2.0, 3.0]])[None, None]
    points = torch.tensor([[[0.5, 0.5], [0.25, 0.25], [0.75, 0.5]]])
    torch.testing.assert_close(point_sample(mask, points, align_corners=False), torch.tensor([[[1.5, 0.0, 2.0]]]))


def test_uncertain_points_are_chosen() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(-8, 8, 64).expand(2, 1, 64, 64)  # zero, the most uncertain logit, lies in the middle
    points = get_uncertain_point_coords_with_randomness(ramp, lambda logits: -logits.abs(), 100, 3.0, 0.75)
    assert points.shape == (2, 100, 2)
    chosen, anywhere = points[:, :75, 0], points[:, 75:, 0]
    assert (chosen - 0.5).abs().max() < 0.2 < (anywhere - 0.5).abs().max()
    none = get_uncertain_point_coords_with_randomness(ramp[:0], lambda logits: logits, 10, 3.0, 0.5)
    assert none.shape == (0, 10, 2)
