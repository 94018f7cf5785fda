"""AP, sums and the printed table, against what upstream's evaluation computes."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import rule

from pivotnet.cli import main
from pivotnet.evaluation.ap import RECALLS, THRESHOLDS, ApResult, accumulate, sample_ap
from pivotnet.evaluation.ap_table import format_table
from pivotnet.evaluation.score import score_results

COMMITTED = Path(__file__).parent / "evaluation"
RESOLUTION = 0.15


def committed_masks() -> dict:
    with np.load(COMMITTED / "golden_ap.npz", allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def scored(recording: dict) -> tuple[np.ndarray, ApResult]:
    # scores[0] is upstream's placeholder
    samples = zip(recording["dt"], recording["scores"], recording["gt"])
    per_sample = np.stack([sample_ap(mask, scores[1:], truth, RESOLUTION) for mask, scores, truth in samples])
    return per_sample, accumulate(per_sample)


@pytest.mark.parametrize("source", ["committed", "full"])
def test_masks_give_upstreams_ap(source: str) -> None:
    recording = committed_masks() if source == "committed" else rule.recording("golden_ap.npz")

    _, result = scored(recording)

    assert recording["thresholds"].tolist() == list(THRESHOLDS)
    np.testing.assert_array_equal(recording["sampled_recalls"], RECALLS)
    np.testing.assert_array_equal(result.sums, recording["ap_matrix"])
    np.testing.assert_array_equal(result.counts, recording["ap_count"][:, 0])
    np.testing.assert_array_equal(result.ap, recording["ap"])
    if "table" in recording:
        assert format_table(result.ap) == str(recording["table"]).strip()


def test_every_sample_gives_upstreams_ap() -> None:
    recording = committed_masks()

    per_sample, _ = scored(recording)

    np.testing.assert_array_equal(per_sample.astype(np.float64), recording["per_sample"])


def nuscenes_root(folder: Path, annotations: Path) -> Path:
    """A tree whose annotated files are upstream's own."""
    target = folder / "root" / "customer" / "pivot-bezier"
    target.parent.mkdir(parents=True)
    target.symlink_to(annotations)
    return folder / "root"


@pytest.mark.parametrize("workers", [0, 2])
def test_upstreams_result_files_give_upstreams_table(tmp_path: Path, workers: int) -> None:
    expected = json.loads((COMMITTED / "ap.json").read_text())
    root = nuscenes_root(tmp_path, COMMITTED / "annotations")
    tokens = [line.split(".")[0] for line in (COMMITTED / "val.txt").read_text().split()]

    result = score_results(COMMITTED / "results", root, tokens, RESOLUTION, workers, quiet=True)

    np.testing.assert_array_equal(result.sums, np.array(expected["ap_sum"], np.float32))
    assert format_table(result.ap) == expected["table"]


def test_the_command_prints_upstreams_table(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = rule.recordings()
    for name in ("eval", "npz"):
        with tarfile.open(folder / f"{name}.tar.gz") as archive:
            archive.extractall(tmp_path)
    root = nuscenes_root(tmp_path, tmp_path / "npz")
    output = tmp_path / "ap.json"
    tokens = str(tmp_path / "eval" / "val.txt")

    status = main(
        ["evaluate", "--results", str(tmp_path / "eval" / "pred"), "--data-root", str(root), "--workers", "0"]
        + ["--tokens", tokens, "--output", str(output)]
    )

    assert status == 0
    assert (tmp_path / "eval" / "table.txt").read_text().strip() in capsys.readouterr().out
    expected = json.loads((tmp_path / "eval" / "ap.json").read_text())
    written = json.loads(output.read_text())
    for index, entry in enumerate(written["classes"].values()):
        assert list(entry["AP"].values()) == expected["ap"][index]
        assert entry["samples"] == expected["count"][index][0]
