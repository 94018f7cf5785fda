"""Annotated samples on disk -> batches: pixels, cameras, targets, which sample goes where, and broken files."""

import dataclasses
import os
import re
import struct
import time

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from support.samples import make_data, token
from support.small import CONFIG as SMALL_MASKS
from support.small import sample
from torch.utils.data import BatchSampler

from pivotnet.annotation.folder import read_split, sample_path, split_path
from pivotnet.annotation.format import load_annotation, save_annotation
from pivotnet.config import CAMERA_IMAGE_SIZE as SIZE
from pivotnet.config import CAMERAS, preset
from pivotnet.data import images
from pivotnet.data.dataset import MapDataset, TrainingSampler, build_loader, camera_matrices, steps_per_epoch
from pivotnet.data.images import read_image
from pivotnet.data.projection import project_bev_grid
from pivotnet.data.targets import build_targets
from pivotnet.errors import PivotNetError

CONFIG = preset("smoke")
SWINT = preset("swint")


@pytest.fixture()
def root(tmp_path):
    return make_data(tmp_path / "data")


def training_loader(root, steps=2, workers=0):
    tokens = read_split(root, "train")
    sampler = TrainingSampler(len(tokens), 2, stop_step=steps)
    return build_loader(CONFIG, root, tokens, sampler=sampler, with_targets=True, workers=workers)


def first_batch(root):
    tokens = read_split(root, "val")
    sampler = BatchSampler(range(len(tokens)), 1, drop_last=False)
    return next(iter(build_loader(CONFIG, root, tokens, sampler=sampler, with_targets=False, workers=0)))


def test_a_batch_of_evaluation(root):
    """PIL's pixels, resized by cv2, of cameras that are found by name; the grid is projected into them."""
    batch = first_batch(root)
    for view, camera in enumerate(CAMERAS):
        decoded = np.asarray(Image.open(root / "samples" / camera / "0.jpg"))
        expected = cv2.resize(decoded, CONFIG.model.image_size[::-1], interpolation=cv2.INTER_LINEAR)
        assert np.array_equal(batch.images[0, view].numpy(), expected[..., ::-1])
    path = sample_path(root, token(0))
    annotation = load_annotation(path)
    extrinsic, intrinsic = camera_matrices(annotation)
    points, valid = project_bev_grid(extrinsic, intrinsic, CONFIG.model.bev_size, CONFIG.map)
    assert torch.equal(batch.reference_points[0], points) and torch.equal(batch.reference_valid[0], valid)
    assert extrinsic[3].tolist() == [[0, 0, 1, 1], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]]
    save_annotation(path, dataclasses.replace(annotation, image_paths=annotation.image_paths[::-1]))
    assert torch.equal(first_batch(root).images, batch.images)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_training(root, workers):
    """Cached samples equal those that are read."""
    loader = training_loader(root, steps=8, workers=workers)
    batches = list(loader)
    tokens = read_split(root, "train")
    order = list(TrainingSampler(len(tokens), 2, stop_step=8))
    assert [batch.tokens for batch in batches] == [[tokens[index] for index in indices] for indices in order]
    cells = CONFIG.model.bev_size[0] * CONFIG.model.bev_size[1]
    first = {}
    for batch in batches:
        assert batch.images.shape == (2, 6, *CONFIG.model.image_size, 3) and batch.images.dtype == torch.uint8
        assert batch.reference_points.shape == (2, cells, 2) and batch.reference_points.dtype == torch.float32
        assert batch.reference_valid.shape == (2, cells) and batch.reference_valid.dtype == torch.bool
        assert batch.targets.masks.shape[-2:] == CONFIG.mask_size and int(batch.targets.counts.min()) >= 1
        for name, own in zip(batch.tokens, batch.images):
            assert torch.equal(first.setdefault(name, own), own)
    assert len(first) == 4 and loader.dataset.known.all()


@pytest.mark.parametrize("seconds, cores, expected", [(0.1, 16, [7, 8]), (0.2, 4, [3]), (0.0, 16, [1])])
def test_slow_samples_get_more_workers(root, monkeypatch, seconds, cores, expected):
    monkeypatch.setattr(MapDataset, "load", lambda self, index: time.sleep(seconds))
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert training_loader(root, steps=1, workers=None).num_workers in expected


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["missing", "truncated", "text", "annotation"])
def test_broken_files_give_one_line(root, workers, damage):
    broken = sample_path(root, token(1)) if damage == "annotation" else root / "samples" / "CAM_BACK" / "1.jpg"
    if damage == "missing":
        os.unlink(broken)
    elif damage == "text":
        broken.write_text("no image")
    else:
        broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    with pytest.raises(PivotNetError) as caught:
        list(training_loader(root, steps=4, workers=workers))
    assert str(broken) in str(caught.value) and not re.search("\n|Traceback", str(caught.value))


def test_splits_that_are_not_there(root, tmp_path):
    with pytest.raises(PivotNetError, match="no nuScenes tree"):
        read_split(tmp_path / "elsewhere", "train")
    with pytest.raises(PivotNetError, match="run pivotnet annotate"):
        read_split(root, "test")
    split_path(root, "val").write_text("\n")
    with pytest.raises(PivotNetError, match="is empty"):
        read_split(root, "val")


def drawing(size):
    """Strong colours with soft and hard edges and noise, uint8 RGB."""
    rng = np.random.default_rng(sum(size))
    soft = cv2.GaussianBlur(rng.normal(128, 200, (*size, 3)), (0, 0), 2)
    hard = 200 * (np.indices(size).sum(0) // 13 % 2)[:, :, None]
    return Image.fromarray(np.clip(soft + hard + rng.normal(0, 5, (*size, 3)), 0, 255).astype(np.uint8))


def pils(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("quality, subsampling", [(30, "4:2:0"), (75, "4:2:2"), (95, "4:4:4")])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(225, 400), (123, 77), (64, 65)])
def test_pixels_are_pils(tmp_path, monkeypatch, quality, subsampling, progressive, size):
    monkeypatch.setattr(images, "CAMERA_IMAGE_SIZE", size)
    exif = Image.Exif()
    exif[0x0112] = 6  # the orientation
    options = {"quality": quality, "subsampling": subsampling, "progressive": progressive}
    drawing(size).save(tmp_path / "a.jpg", exif=exif, **options)
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), pils(tmp_path / "a.jpg"))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colours_are_converted_as_pil_does(tmp_path, mode):
    drawing(SIZE).convert(mode).save(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), pils(tmp_path / "a.jpg"))


def reason(path):
    with pytest.raises(PivotNetError, match=rf"camera image .*{path.name} cannot be decoded .*copy it anew") as caught:
        read_image(path)
    assert "\n" not in str(caught.value) and "BytesIO" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_whole_jpeg_of_a_camera_is_not_decoded(tmp_path):
    path = tmp_path / "a.jpg"
    drawing(SIZE).save(path, quality=10)
    content = path.read_bytes()
    for length in range(0, len(content) - 2, len(content) // 20):
        path.write_bytes(content[:length])
        reason(path)
    for kind in ("PNG", "BMP", "EPS", "TIFF", "GIF"):
        drawing((9, 16)).save(path, kind)
        assert "no JPEG" in reason(path)
    for size in ((90, 160), (1600, 900), (10_000, 10_000), (65_000, 65_000)):
        Image.new("L", (8, 8)).save(path)
        content = path.read_bytes()
        start = content.index(b"\xff\xc0") + 5
        path.write_bytes(content[:start] + struct.pack(">HH", *size) + content[start + 4 :])
        assert f"it has {size[1]} x {size[0]} pixels, not 1600 x 900" in reason(path) or max(size) >= 10_000
    Image.new("RGB", SIZE[::-1]).save(path, progressive=True)
    content = path.read_bytes()
    scan = content[content.rindex(b"\xff\xda") : -2]
    path.write_bytes(content[:-2] + scan * 100 + content[-2:])
    assert "more than 100 scans" in reason(path)
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("fifo.jpg", "zero.jpg"):
        assert "no regular file" in reason(tmp_path / name)


def stream(size, seed, length):
    """The first items of upstream's infinite stream."""
    generator = torch.Generator().manual_seed(seed)
    passes = [torch.randperm(size, generator=generator) for _ in range(length // size + 1)]
    return torch.cat(passes).tolist()[:length]


@pytest.mark.parametrize(("ranks", "batch", "start"), [(1, 6, 1), (3, 2, 0), (3, 2, 7), (8, 1, 11), (2, 3, 19)])
def test_each_rank_takes_its_slices_of_one_stream(ranks, batch, start):
    together = ranks * batch
    whole = stream(11, 5, 20 * together)
    for rank in range(ranks):
        sampler = TrainingSampler(11, batch, seed=5, rank=rank, world_size=ranks, start_step=start, stop_step=20)
        assert list(sampler) == [whole[k * together + rank : (k + 1) * together : ranks] for k in range(start, 20)]
        assert len(sampler) == 20 - start
    assert steps_per_epoch(28130, 1, 8) == 3517 and steps_per_epoch(16, 4, 2) == 2


def test_targets_are_padded():
    targets = build_targets([sample(0, (3, 0, 2)), sample(1, (1, 4, 0))], SWINT)
    assert targets.points.shape == (2, 3, 4, 30, 2)
    assert targets.masks.shape == (2, 3, 4, 400, 200)
    assert targets.semantic.shape == (2, 3, 400, 200)
    assert targets.counts.tolist() == [[3, 0, 2], [1, 4, 0]]
    for b, c in np.ndindex(2, 3):
        n = targets.counts[b, c]
        assert (targets.lengths[b, c, :n] >= 2).all()
        for part in (targets.lengths, targets.points, targets.masks):
            assert not part[b, c, n:].any()


@pytest.mark.parametrize("short", [0, 1])
def test_an_instance_of_less_than_two_points_is_left_out_with_its_mask(short):
    mask, points, lengths = sample(5, (3, 0, 0), lengths=(4, 5, 3))
    lengths[0][1] = short
    targets = build_targets([(mask, points, lengths)], SWINT)
    assert targets.counts[0].tolist() == [2, 0, 0]
    assert targets.lengths[0, 0].tolist() == [4, 3]
    np.testing.assert_array_equal(targets.masks[0, 0, 1], mask[0] == np.unique(mask[0])[3])
    np.testing.assert_array_equal(targets.semantic[0, 0], mask[0] > 0)


def test_mask_stride_keeps_every_fourth_pixel():
    full, small = (build_targets([sample(6, (2, 2, 2))], config) for config in (SWINT, SMALL_MASKS))
    assert small.masks.shape[-2:] == SMALL_MASKS.mask_size == (100, 50)
    np.testing.assert_array_equal(small.masks, full.masks[..., ::4, ::4])
    np.testing.assert_array_equal(small.semantic, full.semantic[..., ::4, ::4])


def test_saturated_ids_count_as_one():
    """Ids above 255 are stored as 255: fewer ids than instances, so the class is redrawn."""
    mask, points, lengths = sample(7, (3, 0, 0))
    mask[0][np.isin(mask[0], np.unique(mask[0])[2:])] = 255
    targets = build_targets([(mask, points, lengths)], SWINT)
    assert targets.counts[0, 0] == 3
    assert targets.masks[0, 0].flatten(1).any(1).all()
