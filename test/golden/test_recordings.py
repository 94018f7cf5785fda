"""The committed recordings of upstream, through the same comparison as ``python tools/golden.py check DIR``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from recordings import check, check_network

COMMITTED = Path(__file__).parent / "recordings"
TOOL = Path(__file__).parents[2] / "tools" / "golden.py"
SLOW = {"trajectory"}  # ten training steps at full size, with and without checkpointing


def misses(rows: list) -> list[str]:
    return [f"{row.what}: {row.note}" for row in rows if not row.good]


@pytest.mark.parametrize("part", sorted(set(check.all_checks()) - SLOW))
def test_equal_to_upstream(part: str) -> None:
    assert misses(check.check(COMMITTED, (part,))) == []


@pytest.mark.full
@pytest.mark.parametrize("part", sorted(SLOW))
def test_equal_to_upstream_at_full_size(part: str) -> None:
    assert misses(check.check(COMMITTED, (part,))) == []


def test_first_training_steps_equal_upstream() -> None:
    assert misses(check_network.check_trajectory(COMMITTED, checkpointing=False, steps=2)) == []


def copy_of(name: str, folder: Path) -> Path:
    shutil.copy(COMMITTED / name, folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("name", "part", "key", "change"),
    [
        ("golden_loss.npz", "loss", "typical/total", 1e-3),
        ("golden_loss.npz", "loss", "typical/match_dt/0/0", 1),
        ("golden_loss.npz", "loss", "dense/grad/ctr_im/3/2", 1e-3),
        ("golden_matching.npz", "matching", "pdm/3/total", 1e-9),
        ("golden_matching.npz", "matching", "seq/2/coe5", 1e-9),
        ("golden_postprocess.npz", "postprocess", "1/points", 1e-2),
        ("golden_postprocess.npz", "postprocess", "0/dt_masks", 1),
        ("golden_transform.npz", "transform", "output", 1e-4),
        ("golden_ap.npz", "ap", "per_sample", 1e-4),
        ("golden_ap.npz", "ap", "ap_count", 1),
        ("golden_forward_effb0.npz", "forward/effb0", "eval/ctr_im/2/1", 2e-5),
        ("golden_forward_effb0.npz", "forward/effb0", "train/ins_masks/5/0", 1e-2),
    ],
)
def test_a_perturbed_recording_misses(tmp_path: Path, name: str, part: str, key: str, change: float) -> None:
    arrays = dict(np.load(copy_of(name, tmp_path), allow_pickle=False))
    if part == "loss":  # one case is enough
        arrays = {k: v for k, v in arrays.items() if k == "seed" or k.startswith(key.split("/")[0] + "/")}
    values = arrays[key].copy()
    values.reshape(-1)[values.size // 2] += np.asarray(change, values.dtype)
    np.savez_compressed(tmp_path / name, **{**arrays, key: values})
    assert misses(check.check(tmp_path, (part,)))


def test_a_perturbed_initialisation_misses(tmp_path: Path) -> None:
    path = copy_of("initialisation_effb0.json", tmp_path)
    recorded = json.loads(path.read_text())
    recorded["parameters"]["output_head.coords_head.layers.1.weight"]["std"] *= 1.1
    path.write_text(json.dumps(recorded))
    assert misses(check.check(tmp_path, ("initialisation/effb0",)))


def test_a_renamed_parameter_misses(tmp_path: Path) -> None:
    path = copy_of("state_dict_effb0.json", tmp_path)
    path.write_text(path.read_text().replace("_conv_stem.weight", "_conv_stem.kernel"))
    assert misses(check.check(tmp_path, ("state_dict/effb0",)))


def test_missing_and_truncated_files_miss(tmp_path: Path) -> None:
    path = copy_of("golden_matching.npz", tmp_path)
    path.write_bytes(path.read_bytes()[:2000])
    rows = check.check(tmp_path, ("matching", "loss", "annotation"))
    assert len(misses(rows)) == 3


def test_command_line(tmp_path: Path) -> None:
    copy_of("golden_matching.npz", tmp_path)

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(TOOL), "check", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=dict(os.environ, COLUMNS="200"))

    good = run(str(tmp_path), "--parts", "matching")
    assert good.returncode == 0 and "3 of 3 comparisons within tolerance" in good.stdout
    missing = run(str(tmp_path), "--parts", "loss")
    assert missing.returncode == 1 and "golden_loss.npz is missing" in missing.stdout
    for arguments in ([str(tmp_path / "nowhere")], [str(tmp_path), "--parts", "nonsense"]):
        wrong = run(*arguments)
        assert wrong.returncode == 2 and wrong.stderr.startswith("error: ") and wrong.stderr.count("\n") == 1
