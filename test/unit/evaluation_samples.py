"""Small annotated samples on disk, for tests of what comes after the network."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from pivotnet.annotation.format import FOLDER, Annotation, Line, save_annotation
from pivotnet.config import CAMERAS
from pivotnet.evaluation.postprocess import draw_line

# A camera that looks forward from 1.5 m above the ground: its x is the car's right, its y is down, its z is forward.
FORWARD = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
PLACE = np.array([1.0, 0, 1.5])
INTRINSIC = np.array([[1000.0, 0, 800], [0, 1000, 450], [0, 0, 1]])


def one_divider(token: str, column: int) -> Annotation:
    """A sample with one divider along a column of the map, seen by six cameras that look forward."""
    mask = np.zeros((3, 400, 200), np.uint8)
    draw_line(mask[0], np.array([[0, column], [360, column]]), 1, 1)
    pivots = np.zeros((1, 10, 2))
    pivots[0, :2] = [[0, column / 200], [0.9, column / 200]]
    left = 15 - 0.15 * column
    return Annotation(
        image_paths=[f"samples/{camera}/{token}.jpg" for camera in CAMERAS],
        trans=np.tile(PLACE, (6, 1)),
        rots=np.tile(FORWARD, (6, 1, 1)),
        intrins=np.tile(INTRINSIC, (6, 1, 1)),
        semantic_mask=(mask > 0).astype(np.uint8),
        instance_mask=mask,
        instance_mask8=mask,
        ego_vectors=[Line(np.array([[30.0, left], [-24, left]]), 0)],
        map_vectors=[],
        ctr_points=[],
        pivot_points={0: pivots, 1: np.zeros((0, 2, 2)), 2: np.zeros((0, 30, 2))},
        pivot_lengths={0: np.array([2]), 1: np.zeros(0, np.int64), 2: np.zeros(0, np.int64)},
    )


def write_annotation(root: Path, token: str, annotation: Annotation) -> None:
    """Puts the annotated file where it belongs below ``root``."""
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    save_annotation(root / FOLDER / f"{token}.npz", annotation)


def write_images(root: Path, annotation: Annotation) -> None:
    """Six grey images."""
    for path in annotation.image_paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / path), np.full((900, 1600, 3), 90, np.uint8))


def write_split(root: Path, split: str, tokens: list[str]) -> None:
    """A split's list of tokens."""
    folder = root / FOLDER / "splits"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.txt").write_text("".join(f"{token}\n" for token in tokens))
