"""Bad input: one clear line, a status that is not 0, nothing half-written."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.commands import fail, run, succeed

SMOKE = ("train", "--preset", "smoke", "--device", "cpu", "--steps", 2)


@pytest.fixture()
def copy(nuscenes: Path, tmp_path: Path) -> Path:
    """A data set of one's own to break."""
    target = tmp_path / "nuscenes"
    shutil.copytree(nuscenes, target)
    return target


def train(root: Path, output: Path, *more: object, ranks: int = 0) -> str:
    return fail(*SMOKE, "--data-root", root, "--output", output, *more, ranks=ranks)


def delete_images(root: Path) -> None:
    for path in (root / "samples" / "CAM_BACK").iterdir():
        path.unlink()


def truncate_annotations(root: Path) -> None:
    for path in (root / "customer" / "pivot-bezier").glob("*.npz"):
        path.write_bytes(path.read_bytes()[:500])


@pytest.mark.parametrize(
    ("damage", "options", "words"),
    [
        (delete_images, ("--workers", 0), ("camera image", "CAM_BACK", "is missing")),
        (delete_images, ("--workers", 1), ("camera image", "CAM_BACK", "is missing")),
        (truncate_annotations, (), (".npz is damaged",)),
        (shutil.rmtree, (), ("nuscenes is no nuScenes tree",)),
    ],
)
def test_damaged_data_set(copy: Path, tmp_path: Path, damage: Callable, options: tuple, words: tuple[str, ...]):
    damage(copy)
    line = train(copy, tmp_path / "run", *options)
    assert all(word in line for word in words)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_missing_map_expansion(copy: Path):
    shutil.rmtree(copy / "customer")
    expansion = sorted((copy / "maps" / "expansion").glob("*.json"))[0]
    expansion.unlink()
    assert expansion.stem in fail("annotate", "-d", copy)
    assert not list(copy.rglob("*.npz"))


def test_missing_image_with_two_ranks_ends_both(copy: Path, tmp_path: Path):
    delete_images(copy)
    done = run(*SMOKE, "--data-root", copy, "--output", tmp_path / "run", ranks=2, timeout=120)
    assert done.returncode != 0
    assert any(line.startswith("error: ") and "is missing" in line for line in done.stderr.splitlines())


@pytest.mark.parametrize(
    ("options", "ranks", "words"),
    [
        (("--preset", "big"), 0, "unknown preset 'big'"),
        (("--preset", "big"), 2, "unknown preset 'big'"),  # an error of all ranks is reported once
        (("--device", "tpu"), 0, "unknown device 'tpu'"),
        (("--lr", "1e30", "--steps", 6), 2, "no checkpoint was written"),
    ],
)
def test_bad_option(nuscenes: Path, tmp_path: Path, options: tuple, ranks: int, words: str):
    assert words in train(nuscenes, tmp_path / "run", *options, ranks=ranks)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_unknown_option():
    done = run(*SMOKE, "--fast")
    assert done.returncode == 2 and "unrecognized arguments: --fast" in done.stderr


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
