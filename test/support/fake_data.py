"""A small annotated data set of blurred noise images and random lines, for tests that need no real scene."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np

from pivotnet.annotation.format import FOLDER, save_annotation
from pivotnet.audit.sample import random_lines
from pivotnet.config import CAMERA_IMAGE_SIZE, MapConfig
from support.divider_data import one_divider


def token(index: int) -> str:
    """Token of the sample with this number."""
    return f"{index:032x}"


def make_data(root: Path, samples: int = 4, seed: int = 0) -> Path:
    """Write ``samples`` annotated samples, all of them in both splits; returns ``root``."""
    rng = np.random.default_rng(seed)
    (root / FOLDER / "splits").mkdir(parents=True)
    for index in range(samples):
        annotation = one_divider(str(index), 0)
        for path in annotation.image_paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            noise = rng.integers(0, 256, (30, 50, 3), np.uint8)
            cv2.imwrite(str(root / path), cv2.resize(noise, CAMERA_IMAGE_SIZE[::-1]))
        mask, points, lengths = random_lines(MapConfig(), rng, tuple(rng.integers(1, 4, 3)))
        lines = {"instance_mask": mask, "instance_mask8": mask, "pivot_points": points, "pivot_lengths": lengths}
        annotation = dataclasses.replace(annotation, semantic_mask=(mask > 0).astype(np.uint8), ego_vectors=[], **lines)
        save_annotation(root / FOLDER / f"{token(index)}.npz", annotation)
    for split in ("train", "val"):
        (root / FOLDER / "splits" / f"{split}.txt").write_text("".join(f"{token(index)}\n" for index in range(samples)))
    return root
