"""What the patched tree's converter, evaluator and point sampling run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.divider_data import write_dividers, write_results

from pivotnet.annotation.format import FOLDER
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.ap_table import format_table
from pivotnet.evaluation.score import score_results
from pivotnet.upstream.annotation import convert_annotations
from pivotnet.upstream.evaluation import ResultEvaluator
from pivotnet.upstream.substitutes import get_uncertain_point_coords_with_randomness, point_sample

TOKENS = ["a", "b"]


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """Two annotated samples, results of which the second is a little off."""
    write_dividers(tmp_path, dict.fromkeys(TOKENS, 60))
    write_results(tmp_path / "results", {"a": 60, "b": 64})
    return tmp_path


def test_the_table_is_that_of_our_own_evaluation(scored: Path, capsys) -> None:
    listed = scored / "val.txt"
    listed.write_text("a\nb\n")
    ResultEvaluator(gt_dir=str(scored / FOLDER), dt_dir=str(scored / "results"), val_txt=str(listed)).execute()
    wanted = score_results(scored / "results", scored, TOKENS, 0.15, quiet=True)
    assert capsys.readouterr().out == format_table(wanted.ap) + "\n"


def test_another_map_is_refused(scored: Path) -> None:
    with pytest.raises(PivotNetError, match="map_resolution"):
        ResultEvaluator(scored / FOLDER, scored / "results", scored / "val.txt", map_resolution=(0.15, 0.3))


def test_the_converter_takes_upstreams_options(monkeypatch, capsys) -> None:
    seen = []
    monkeypatch.setattr("pivotnet.upstream.annotation.annotate_on_terminal", lambda *words: seen.append(words))
    convert_annotations(["-d", "root", "-v", "v1.0-mini", "v1.0-test", "--bezier"])
    assert [(root, version, options.bezier) for root, version, options in seen] == [
        ("root", "v1.0-mini", True),
        ("root", "v1.0-test", True),
    ]
    with pytest.raises(SystemExit) as stop:
        convert_annotations(["-d", "root", "--thickness", "1", "5"])
    assert stop.value.code == 2 and "error: the converter has thickness=[1, 5]" in capsys.readouterr().err


def test_a_root_without_tables_is_one_line(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        convert_annotations(["-d", str(tmp_path)])
    message = capsys.readouterr().err
    assert stop.value.code == 2 and message.startswith("error: ") and message.count("\n") == 1


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


def test_without_any_mask_there_are_no_points() -> None:
    points = get_uncertain_point_coords_with_randomness(torch.zeros(0, 1, 4, 4), lambda logits: logits, 10, 3.0, 0.5)
    assert points.shape == (0, 10, 2)
