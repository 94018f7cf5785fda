"""Bad input: one clear line, a status that is not 0, nothing half-written."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support.commands import ENVIRONMENT, ROOT, command, fail, succeed

SMOKE = ("train", "--preset", "smoke", "--device", "cpu", "--steps", 2)


@pytest.fixture()
def copy(nuscenes: Path, tmp_path: Path) -> Path:
    """A data set of one's own to break."""
    target = tmp_path / "nuscenes"
    shutil.copytree(nuscenes, target)
    return target


def train(root: Path, output: Path, *more: object, ranks: int = 0) -> str:
    return fail(*SMOKE, "--data-root", root, "--output", output, *more, ranks=ranks)


def test_data_root_that_is_no_nuscenes_tree(tmp_path: Path):
    line = train(tmp_path / "nowhere", tmp_path / "run")
    assert "nowhere is no nuScenes tree" in line
    assert not (tmp_path / "run").exists()


def test_missing_map_expansion(copy: Path):
    shutil.rmtree(copy / "customer")
    expansion = sorted((copy / "maps" / "expansion").glob("*.json"))[0]
    expansion.unlink()
    assert expansion.stem in fail("annotate", "-d", copy)
    assert not list(copy.rglob("*.npz"))


@pytest.mark.parametrize("workers", [0, 1])
def test_missing_image(copy: Path, tmp_path: Path, workers: int):
    for path in (copy / "samples" / "CAM_BACK").iterdir():
        path.unlink()
    line = train(copy, tmp_path / "run", "--workers", workers)
    assert "camera image" in line and "CAM_BACK" in line and "is missing" in line
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_truncated_annotation(copy: Path, tmp_path: Path):
    for path in (copy / "customer" / "pivot-bezier").glob("*.npz"):
        path.write_bytes(path.read_bytes()[:500])
    assert ".npz" in train(copy, tmp_path / "run")


def test_missing_image_with_two_ranks_ends_both(copy: Path, tmp_path: Path):
    for path in (copy / "samples" / "CAM_BACK").iterdir():
        path.unlink()
    done = subprocess.run(
        command(*SMOKE, "--data-root", copy, "--output", tmp_path / "run", ranks=2),
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode != 0
    assert any(line.startswith("error: ") and "is missing" in line for line in done.stderr.splitlines())


def test_unknown_preset_option_and_device(nuscenes: Path, tmp_path: Path):
    root = ("--data-root", nuscenes, "--output", tmp_path / "run")
    assert "unknown preset 'big'" in fail("train", "--preset", "big", *root)
    assert "unknown device 'tpu'" in fail("train", "--preset", "smoke", *root, "--device", "tpu")
    done = subprocess.run(command(*SMOKE, *root, "--fast"), capture_output=True, text=True, env=ENVIRONMENT, cwd=ROOT)
    assert done.returncode == 2 and "unrecognized arguments: --fast" in done.stderr
    assert not (tmp_path / "run").exists()


def test_an_error_of_all_ranks_is_told_once(nuscenes: Path, tmp_path: Path):
    line = fail("train", "--preset", "big", "--data-root", nuscenes, "--output", tmp_path / "run", ranks=2)
    assert "unknown preset 'big'" in line


def test_nan_loss_with_two_ranks_is_told_once(nuscenes: Path, tmp_path: Path):
    line = train(nuscenes, tmp_path, "--lr", "1e30", "--steps", 6, ranks=2)
    assert "the loss of step" in line and "no checkpoint was written" in line
    assert not (tmp_path / "checkpoints").exists()


def test_checkpoint_of_another_backbone(nuscenes: Path, tmp_path: Path):
    succeed(*SMOKE[:-1], 1, "--data-root", nuscenes, "--output", tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "step_00000001.pth"
    for option in ("--resume", "--pretrained"):
        line = fail(
            "train", "--preset", "res50", "--device", "cpu", "--data-root", nuscenes, "--output", tmp_path / "other",
            option, checkpoint,
        )  # fmt: skip
        assert "effb0" in line and "res50" in line
    assert "not res50" in fail("evaluate", "--ckpt", checkpoint, "--preset", "res50", "--data-root", nuscenes)
    assert not (tmp_path / "other").exists()


@pytest.fixture()
def small_disk(tmp_path: Path):
    folder = tmp_path / "small"
    folder.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(folder)], capture_output=True, text=True
        )
    except OSError as error:
        pytest.skip(f"cannot mount a small disk: {error}")
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_while_writing_a_checkpoint(nuscenes: Path, small_disk: Path):
    """A checkpoint of smoke takes about 50 MB: the first fits, the second does not."""
    line = train(nuscenes, small_disk / "run", "--save-every", 1)
    assert "cannot write" in line and "No space left on device" in line
    folder = small_disk / "run" / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step_00000001.pth"]
    succeed("evaluate", "--ckpt", folder / "step_00000001.pth", "--data-root", nuscenes, "--device", "cpu",
            "--results", small_disk.parent / "results")  # fmt: skip
