"""Batches of random images with drawn lines: what a step computes does not depend on what the pictures show."""

import numpy as np
import torch

from pivotnet.config import CAMERAS, Config, MapConfig
from pivotnet.data.targets import Sample, build_targets, draw_line
from pivotnet.structures import Batch

INSTANCES = (6, 3, 4)  # dividers, crossings and boundaries of a sample: as in the counts of upstream


def random_batch(config: Config, samples: int, seed: int, counts: tuple[int, int, int] = INSTANCES) -> Batch:
    """A batch in host memory, with targets; ``counts`` are instances of each class in a sample."""
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
        targets=build_targets([random_lines(config.map, rng, counts) for _ in range(samples)], config),
    )


def random_lines(
    map_config: MapConfig, rng: np.random.Generator, counts: tuple[int, ...] = INSTANCES, lengths: tuple[int, ...] = ()
) -> Sample:
    """An annotated sample of random walks over the map: ``counts`` by class; ``lengths`` of the first dividers."""
    mask = np.zeros((len(counts), *map_config.map_size), np.uint8)
    points: dict[int, np.ndarray] = {}
    sizes: dict[int, np.ndarray] = {}
    identifier = 0
    for label, (count, most) in enumerate(zip(counts, map_config.max_points)):
        points[label] = np.zeros((count, most, 2))
        sizes[label] = rng.integers(2, most + 1, count)
        if label == 0:
            sizes[0][: len(lengths)] = lengths
        for line, size in zip(points[label], sizes[label]):
            line[:size] = np.clip(rng.random(2) + np.cumsum(rng.normal(0, 0.05, (int(size), 2)), 0), 0, 0.999)
            identifier += 2
            draw_line(mask[label], line[:size] * map_config.map_size, identifier, map_config.mask_thickness)
    return Sample(mask, points, sizes)
