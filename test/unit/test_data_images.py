"""Decoding of camera images: PIL's pixels, whoever decodes."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pivotnet.data.images import read_image, read_view, resize
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
    tmp_path: Path, quality: int, subsampling: str, progressive: bool, size: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    options = {"quality": quality, "subsampling": subsampling, "progressive": progressive}
    Image.fromarray(drawing(size)).save(tmp_path / "a.jpg", exif=exif, **options)
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), pils(tmp_path / "a.jpg"))


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA"])
def test_other_kinds_of_images_are_converted_as_pil_does(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(drawing((40, 60))).convert(mode).save(path, "JPEG" if mode in ("L", "CMYK") else "PNG")
    np.testing.assert_array_equal(read_image(path), pils(path))


def test_every_truncation_is_reported(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(drawing((80, 120))).save(whole, "JPEG")
    content = whole.getvalue()
    for length in range(0, len(content) - 2, len(content) // 40):
        (tmp_path / "a.jpg").write_bytes(content[:length])
        with pytest.raises(PivotNetError, match=r"a\.jpg cannot be decoded .*copy it anew") as caught:
            read_image(tmp_path / "a.jpg")
        assert "\n" not in str(caught.value) and "BytesIO" not in str(caught.value)


def test_a_view_is_a_resized_image_in_its_place(tmp_path: Path) -> None:
    Image.fromarray(drawing((90, 160))).save(tmp_path / "a.jpg")
    views = np.full((3, 48, 80, 3), 7, np.uint8)
    read_view(tmp_path / "a.jpg", views[1])
    np.testing.assert_array_equal(views[1], resize(pils(tmp_path / "a.jpg"), (48, 80))[..., ::-1])
    assert (views[[0, 2]] == 7).all()
