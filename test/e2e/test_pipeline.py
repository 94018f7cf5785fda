"""From nothing to a scored and drawn map, through the command line alone."""

from __future__ import annotations

import json
from pathlib import Path

from support.commands import losses, records, succeed


def test_synthetic_data_to_pictures(nuscenes: Path, tmp_path: Path):
    run = tmp_path / "run with spaces"
    options = ("--preset", "smoke", "--data-root", nuscenes, "--output", run, "--device", "cpu", "--save-every", 3)
    succeed("train", *options, "--steps", 3)
    out = succeed("train", *options, "--steps", 5, "--resume")
    assert "resumed from" in out and "step 5/5" in out
    assert [step for step, _, _ in losses(run)] == [0, 1, 2, 3, 4]

    checkpoint = run / "checkpoints" / "step_00000005.pth"
    table, results = tmp_path / "ap.json", tmp_path / "results"
    val = ("--data-root", nuscenes, "--split", "val")
    out = succeed("evaluate", "--ckpt", checkpoint, *val, "--device", "cpu", "--results", results, "--output", table)
    assert "mAP@EASY" in out
    scored = json.loads(table.read_text())
    assert set(scored["classes"]) == {"divider", "ped_crossing", "boundary"} and 0 <= scored["mAP_easy"] <= 1

    maps, pictures = tmp_path / "maps", tmp_path / "pictures"
    succeed("predict", "--ckpt", checkpoint, *val, "--device", "cpu", "--output", maps)
    tokens = (nuscenes / "customer" / "pivot-bezier" / "splits" / "val.txt").read_text().split()
    assert {path.stem for path in maps.glob("*.json")} >= set(tokens)
    succeed("render", *val, "--results", results, "--output", pictures, "--limit", 1)
    images = list(pictures.glob("*.png"))
    assert len(images) == 1 and images[0].stat().st_size > 10_000


def test_summary_agrees_with_the_records(nuscenes: Path, tmp_path: Path):
    succeed(
        "train", "--preset", "smoke", "--data-root", nuscenes, "--output", tmp_path, "--device", "cpu", "--steps", 6,
        "--workers", 1, "--profile", 2,
    )  # fmt: skip
    summary = json.loads((tmp_path / "summary.json").read_text())
    counted = sorted(record["seconds"] for record in records(tmp_path) if record["counted"])
    assert summary["step_seconds"]["count"] == len(counted) == 5
    assert summary["step_seconds"]["median"] == counted[2]
    assert summary["train_seconds"] <= summary["wall_seconds"]
    assert summary["peak_memory_bytes"] > 100e6
