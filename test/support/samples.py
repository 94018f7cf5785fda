"""Annotated samples: recorded of upstream, of one divider each, or of blurred noise images and random lines."""

from __future__ import annotations

import dataclasses
import os
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np

from pivotnet.annotation.folder import split_path
from pivotnet.annotation.format import FOLDER, Annotation, Line, save_annotation
from pivotnet.audit.sample import random_lines
from pivotnet.config import CAMERA_IMAGE_SIZE, CAMERAS, MapConfig
from pivotnet.data.targets import draw_line
from pivotnet.evaluation.inference import draw_mask
from pivotnet.evaluation.results import MapInstances, result_path, save_result

COMMITTED = Path(__file__).parents[1] / "golden" / "recordings"
RECORDINGS = Path(os.environ.get("PIVOTNET_GOLDEN", COMMITTED))
# A camera that looks forward from 1.5 m above the ground: its x is the car's right, its y is down, its z is forward.
FORWARD = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
PLACE = np.array([1.0, 0, 1.5])
INTRINSIC = np.array([[1000.0, 0, 800], [0, 1000, 450], [0, 0, 1]])


def unpack(folder: Path, *names: str) -> None:
    for name in names:
        with tarfile.open(COMMITTED / f"{name}.tar.gz") as archive:
            archive.extractall(folder)


def unpack_hard_samples(folder: Path) -> Path:
    """Eight samples without images in folder/nuscenes; what upstream's converter wrote for them in folder/npz, and with
    --bezier in folder/bezier.npz. Returns folder/nuscenes. The map is cut to 34 m around them. One sample has 177
    lines, one none; there are roundabouts, islands, lines that the window splits, crossings cut by its edge, and lines
    that shrink to a point."""
    unpack(folder, "small_nuscenes", "small_npz")
    return folder / "nuscenes"


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


def write_split(root: Path, split: str, tokens: Iterable[str]) -> None:
    """The list of a split's samples."""
    path = split_path(root, split)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{token}\n" for token in tokens))


def write_images(root: Path, annotation: Annotation, grey: int = 90) -> None:
    """Six grey images."""
    for path in annotation.image_paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / path), np.full((900, 1600, 3), grey, np.uint8))


def write_dividers(root: Path, columns: Mapping[str, int]) -> None:
    """Samples {token: column}, all of them in the val split; the images have the column's number as their grey."""
    write_split(root, "val", columns)
    for token, column in columns.items():
        annotation = one_divider(token, column)
        save_annotation(root / FOLDER / f"{token}.npz", annotation)
        write_images(root, annotation, column)


def write_results(folder: Path, columns: Mapping[str, int | None]) -> None:
    """Result files {token: column of the one predicted divider, None for no line}."""
    folder.mkdir(parents=True)
    for token, column in columns.items():
        lines = [] if column is None else [np.array([[0, column], [360, column]], np.float32)]
        instances = MapInstances(lines, np.full(len(lines), 0.9, np.float32), np.zeros(len(lines), np.int64))
        save_result(result_path(folder, token), draw_mask(instances, MapConfig()), instances)


def token(index: int) -> str:
    return f"{index:032x}"


def make_data(root: Path, samples: int = 4, seed: int = 0) -> Path:
    """Write ``samples`` annotated samples, all of them in both splits; returns ``root``."""
    rng = np.random.default_rng(seed)
    for split in ("train", "val"):
        write_split(root, split, map(token, range(samples)))
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
    return root


class Reduced:
    """Is pickled as a call, and a state that is set on what it returns."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced
