"""Decoding of camera images: PIL's pixels, whoever decodes."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pivotnet.config import CAMERA_IMAGE_SIZE as SIZE
from pivotnet.data import images
from pivotnet.data.images import read_image
from pivotnet.errors import PivotNetError

ORIENTATION = 0x0112  # EXIF


def drawing(size: tuple[int, int]) -> np.ndarray:
    """Strong colours with soft and hard edges and noise, uint8 RGB."""
    rng = np.random.default_rng(sum(size))
    soft = cv2.GaussianBlur(rng.normal(128, 200, (*size, 3)), (0, 0), 2)
    hard = 200 * (np.indices(size).sum(0) // 13 % 2)[:, :, None]
    return np.clip(soft + hard + rng.normal(0, 5, (*size, 3)), 0, 255).astype(np.uint8)


def pils(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("quality, subsampling", [(30, "4:2:0"), (75, "4:2:2"), (95, "4:4:4")])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(225, 400), (123, 77), (64, 65)])
def test_pixels_are_pils(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quality: int,
    subsampling: str,
    progressive: bool,
    size: tuple[int, int],
) -> None:
    monkeypatch.setattr(images, "CAMERA_IMAGE_SIZE", size)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    options = {"quality": quality, "subsampling": subsampling, "progressive": progressive}
    Image.fromarray(drawing(size)).save(tmp_path / "a.jpg", exif=exif, **options)
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), pils(tmp_path / "a.jpg"))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colours_are_converted_as_pil_does(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(drawing(SIZE)).convert(mode).save(path)
    np.testing.assert_array_equal(read_image(path), pils(path))


def reason(path: Path) -> str:
    with pytest.raises(PivotNetError, match=rf"camera image .*{path.name} cannot be decoded .*copy it anew") as caught:
        read_image(path)
    assert "\n" not in str(caught.value) and "BytesIO" not in str(caught.value)
    return str(caught.value)


def test_every_truncation_is_reported(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(drawing(SIZE)).save(whole, "JPEG", quality=10)
    content = whole.getvalue()
    for length in range(0, len(content) - 2, len(content) // 20):
        (tmp_path / "a.jpg").write_bytes(content[:length])
        reason(tmp_path / "a.jpg")


def test_what_is_no_jpeg_of_a_camera_is_not_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    for kind in ("PNG", "BMP", "EPS", "TIFF", "GIF"):
        Image.fromarray(drawing((9, 16))).save(path, kind)
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
    assert "no regular file" in reason(tmp_path / "fifo.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    assert "no regular file" in reason(tmp_path / "zero.jpg")
