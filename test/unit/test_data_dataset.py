"""Samples on disk -> batches: pixels, order of the cameras, and what happens with broken files."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from support.fake_data import make_data, token

from pivotnet.annotation.format import FOLDER, load_annotation, save_annotation
from pivotnet.config import CAMERAS, preset
from pivotnet.data.dataset import build_loader, camera_matrices
from pivotnet.data.projection import project_bev_grid
from pivotnet.data.sampler import EvaluationSampler, TrainingSampler
from pivotnet.data.tokens import read_split
from pivotnet.errors import PivotNetError

CONFIG = preset("smoke")


@pytest.fixture()
def root(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")


def training_loader(root: Path, steps: int = 2, batch: int = 2, workers: int = 0):
    tokens = read_split(root, "train")
    sampler = TrainingSampler(len(tokens), batch, stop_step=steps)
    return build_loader(CONFIG, root, tokens, sampler=sampler, with_targets=True, workers=workers)


def evaluation_loader(root: Path, workers: int = 0):
    tokens = read_split(root, "val")
    sampler = EvaluationSampler(len(tokens), 1)
    return build_loader(CONFIG, root, tokens, sampler=sampler, with_targets=False, workers=workers)


def test_pixels_are_pil_and_cv2(root):
    batch = next(iter(evaluation_loader(root)))
    height, width = CONFIG.model.image_size
    for view, camera in enumerate(CAMERAS):
        decoded = np.asarray(Image.open(root / "samples" / camera / "0.jpg"))
        expected = cv2.resize(decoded, (width, height), interpolation=cv2.INTER_LINEAR)
        assert np.array_equal(batch.images[0, view].numpy(), expected[..., ::-1])


def test_cameras_are_found_by_name_not_by_place(root):
    path = root / FOLDER / f"{token(0)}.npz"
    expected = next(iter(evaluation_loader(root))).images
    annotation = load_annotation(path)
    save_annotation(path, dataclasses.replace(annotation, image_paths=annotation.image_paths[::-1]))
    assert torch.equal(next(iter(evaluation_loader(root))).images, expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_training(root, workers):
    batches = list(training_loader(root, steps=3, workers=workers))
    tokens = read_split(root, "train")
    order = list(TrainingSampler(len(tokens), 2, stop_step=3))
    assert [batch.tokens for batch in batches] == [[tokens[index] for index in indices] for indices in order]
    height, width = CONFIG.model.image_size
    cells = CONFIG.model.bev_size[0] * CONFIG.model.bev_size[1]
    for batch in batches:
        assert batch.images.shape == (2, 6, height, width, 3) and batch.images.dtype == torch.uint8
        assert batch.reference_points.shape == (2, cells, 2) and batch.reference_points.dtype == torch.float32
        assert batch.reference_valid.shape == (2, cells) and batch.reference_valid.dtype == torch.bool
        assert batch.targets is not None and batch.targets.masks.shape[-2:] == CONFIG.mask_size
        assert int(batch.targets.counts.min()) >= 1


def test_the_grid_is_projected_into_the_cameras_of_the_annotation(root):
    batch = next(iter(evaluation_loader(root)))
    extrinsic, intrinsic = camera_matrices(load_annotation(root / FOLDER / f"{token(0)}.npz"))
    points, valid = project_bev_grid(extrinsic, intrinsic, CONFIG.model.bev_size, CONFIG.map)
    assert torch.equal(batch.reference_points[0], points) and torch.equal(batch.reference_valid[0], valid)
    assert extrinsic[3].tolist() == [[0, 0, 1, 1], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]]


def test_a_cached_sample_equals_a_read_one(root):
    loader = training_loader(root, steps=8)
    assert loader.dataset.cached is not None
    first: dict[str, torch.Tensor] = {}
    for batch in loader:
        for name, images in zip(batch.tokens, batch.images):
            assert torch.equal(first.setdefault(name, images), images)
    assert len(loader.dataset.cached) == len(first) == 4


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["missing", "truncated", "text", "annotation"])
def test_broken_files_give_one_line(root, workers, damage):
    image = root / "samples" / "CAM_BACK" / "1.jpg"
    broken = root / FOLDER / f"{token(1)}.npz" if damage == "annotation" else image
    if damage == "missing":
        os.unlink(broken)
    elif damage == "text":
        broken.write_text("no image")
    else:
        broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    with pytest.raises(PivotNetError) as caught:
        list(training_loader(root, steps=4, workers=workers))
    assert str(broken) in str(caught.value)
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)


def test_splits_that_are_not_there(root, tmp_path):
    with pytest.raises(PivotNetError, match="no nuScenes tree"):
        read_split(tmp_path / "elsewhere", "train")
    with pytest.raises(PivotNetError, match="run pivotnet annotate"):
        read_split(root, "test")
    (root / FOLDER / "splits" / "val.txt").write_text("\n")
    with pytest.raises(PivotNetError, match="is empty"):
        read_split(root, "val")
