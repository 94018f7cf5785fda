"""Batches of random images with drawn lines: what a step computes does not depend on what the pictures show."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from pivotnet.config import CAMERAS, Config
from pivotnet.data.targets import build_targets
from pivotnet.structures import Batch

INSTANCES = (6, 3, 4)  # dividers, crossings and boundaries of a sample: as in the counts of upstream


def random_batch(config: Config, samples: int, seed: int) -> Batch:
    """A batch in host memory, with targets.

    Args:
        config: sizes.
        samples: how many.
        seed: of images, projections and lines.
    """
    rng = np.random.default_rng(seed)
    height, width = config.model.image_size
    cells = config.model.bev_size[0] * config.model.bev_size[1]
    images = rng.integers(0, 256, (samples, len(CAMERAS), height, width, 3), np.uint8)
    points = rng.random((samples, cells, 2), np.float32)
    return Batch(
        images=torch.from_numpy(images),
        reference_points=torch.from_numpy(points),
        reference_valid=torch.from_numpy(rng.random((samples, cells)) > 0.2),
        tokens=[f"random-{seed}-{index}" for index in range(samples)],
        targets=build_targets([_sample(config, rng) for _ in range(samples)], config),
    )


def _sample(config: Config, rng: np.random.Generator) -> tuple:
    """(instance mask, points, lengths) of random walks over the map."""
    mask = np.zeros((3, *config.map.map_size), np.uint8)
    points: dict[int, np.ndarray] = {}
    lengths: dict[int, np.ndarray] = {}
    identifier = 0
    for kind, (count, most) in enumerate(zip(INSTANCES, config.map.max_points)):
        points[kind] = np.zeros((count, most, 2))
        lengths[kind] = rng.integers(2, most + 1, count)
        for line, length in zip(points[kind], lengths[kind]):
            line[:length] = np.clip(rng.random(2) + np.cumsum(rng.normal(0, 0.05, (int(length), 2)), 0), 0, 0.999)
            pixels = (line[:length] * config.map.map_size).astype(np.int32)[:, ::-1]
            identifier += 2
            thickness = config.map.mask_thickness
            cv2.polylines(mask[kind], [np.ascontiguousarray(pixels)], False, (identifier,), thickness)
    return mask, points, lengths
