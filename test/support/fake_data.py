"""A small annotated data set of blurred noise images and random lines, for tests that need no real scene."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np

from pivotnet.annotation.format import FOLDER, Annotation, save_annotation
from pivotnet.audit.sample import random_lines
from pivotnet.config import CAMERA_IMAGE_SIZE, CAMERAS, MapConfig
from support.divider_data import one_divider


def token(index: int) -> str:
    """Token of the sample with this number."""
    return f"{index:032x}"


def make_data(root: Path, samples: int = 4, seed: int = 0) -> Path:
    """Write ``samples`` annotated samples, all of them in both splits; returns ``root``."""
    rng = np.random.default_rng(seed)
    folder = root / FOLDER
    (folder / "splits").mkdir(parents=True)
    for camera in CAMERAS:
        (root / "samples" / camera).mkdir(parents=True)
    for index in range(samples):
        paths = [f"samples/{camera}/{index}.jpg" for camera in CAMERAS]
        for path in paths:
            noise = rng.integers(0, 256, (30, 50, 3), np.uint8)
            cv2.imwrite(str(root / path), cv2.resize(noise, CAMERA_IMAGE_SIZE[::-1]))
        save_annotation(folder / f"{token(index)}.npz", _annotation(paths, rng))
    for split in ("train", "val"):
        (folder / "splits" / f"{split}.txt").write_text("".join(f"{token(index)}\n" for index in range(samples)))
    return root


def _annotation(paths: list[str], rng: np.random.Generator) -> Annotation:
    mask, points, lengths = random_lines(MapConfig(), rng, tuple(rng.integers(1, 4, 3)))
    return dataclasses.replace(
        one_divider(token(0), 0),
        image_paths=paths,
        semantic_mask=(mask > 0).astype(np.uint8),
        instance_mask=mask,
        instance_mask8=mask,
        ego_vectors=[],
        pivot_points=points,
        pivot_lengths=lengths,
    )
