"""A small annotated data set of noise images and random lines, made in a second: for tests that need no real scene."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from pivotnet.annotation.format import FOLDER, Annotation, save_annotation
from pivotnet.config import CAMERAS, MapConfig

YAWS = (55.0, 0.0, -55.0, 110.0, 180.0, -110.0)  # degrees, cameras in CAMERAS' order
INTRINSIC = np.array([[1250.0, 0.0, 800.0], [0.0, 1250.0, 450.0], [0.0, 0.0, 1.0]])


def token(index: int) -> str:
    """Token of the sample with this number."""
    return f"{index:032x}"


def make_data(root: Path, samples: int = 4, seed: int = 0, image_size: tuple[int, int] = (90, 160)) -> Path:
    """Write ``samples`` annotated samples, all of them in both splits; returns ``root``."""
    rng = np.random.default_rng(seed)
    folder = root / FOLDER
    (folder / "splits").mkdir(parents=True)
    for camera in CAMERAS:
        (root / "samples" / camera).mkdir(parents=True)
    for index in range(samples):
        paths = [f"samples/{camera}/{index}.jpg" for camera in CAMERAS]
        for path in paths:
            noise = rng.integers(0, 256, (*image_size, 3), np.uint8)
            cv2.imwrite(str(root / path), cv2.GaussianBlur(noise, (0, 0), 3))
        save_annotation(folder / f"{token(index)}.npz", _annotation(paths, rng))
    for split in ("train", "val"):
        (folder / "splits" / f"{split}.txt").write_text("".join(f"{token(index)}\n" for index in range(samples)))
    return root


def _annotation(paths: list[str], rng: np.random.Generator) -> Annotation:
    angles = np.deg2rad(YAWS)
    zero = np.zeros_like(angles)
    right = np.stack([np.sin(angles), -np.cos(angles), zero], axis=-1)
    down = np.stack([zero, zero, zero - 1], axis=-1)
    forward = np.stack([np.cos(angles), np.sin(angles), zero], axis=-1)
    config = MapConfig()
    masks = np.zeros((2, 3, *config.map_size), np.uint8)
    points, lengths, count = {}, {}, 0
    for kind, limit in enumerate(config.max_points):
        n = int(rng.integers(1, 4))
        points[kind], lengths[kind] = np.zeros((n, limit, 2)), np.full(n, 2, np.int64)
        for line in points[kind]:
            column = rng.uniform(0.1, 0.9)
            line[:2] = [[rng.uniform(0.6, 0.9), column], [rng.uniform(0.1, 0.4), column]]
            pixels = (line[:2] * config.map_size).astype(np.int32)[:, ::-1]
            count += 1
            for mask, number, thickness in zip(masks, (2 * count - 1, 2 * count), (1, 8)):
                cv2.polylines(mask[kind], [np.ascontiguousarray(pixels)], False, (number,), thickness)
    return Annotation(
        image_paths=paths,
        trans=np.tile([1.5, 0.0, 1.6], (6, 1)),
        rots=np.stack([right, down, forward], axis=-1),
        intrins=np.tile(INTRINSIC, (6, 1, 1)),
        semantic_mask=(masks[0] > 0).astype(np.uint8),
        instance_mask=masks[0],
        instance_mask8=masks[1],
        ego_vectors=[],
        map_vectors=[],
        ctr_points=[],
        pivot_points=points,
        pivot_lengths=lengths,
    )
