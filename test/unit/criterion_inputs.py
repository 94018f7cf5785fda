"""Small random predictions and drawn targets for the criterion's tests."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import torch
from torch import Tensor

from pivotnet.config import CriterionConfig, preset
from pivotnet.data.targets import build_targets
from pivotnet.structures import Predictions, Targets

# upstream's classes with 3 line decoders, 2 BEV decoders and masks of 100 x 50
CONFIG = dataclasses.replace(
    preset("swint"),
    model=dataclasses.replace(preset("swint").model, mask_stride=4),
    criterion=CriterionConfig(decoder_weights=(0.4, 0.8, 1.6), bev_weights=(0.8, 2.4)),
)
MAP = CONFIG.map
FIELDS = ("object_logits", "points", "point_logits", "masks", "semantic_logits")


def sample(seed: int, counts: tuple[int, int, int], lengths: tuple[int, ...] = ()) -> tuple:
    """(instance mask, points, lengths) with that many instances by class; ``lengths`` fixes the first dividers'."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((3, *MAP.map_size), np.uint8)
    points: dict[int, np.ndarray] = {}
    sizes: dict[int, np.ndarray] = {}
    identifier = 2
    for c, (count, most) in enumerate(zip(counts, MAP.max_points)):
        points[c] = np.zeros((count, most, 2)) if count else np.zeros(0)
        sizes[c] = rng.integers(2, most + 1, count) if count else np.zeros(0)
        if c == 0:
            sizes[c][: len(lengths)] = lengths
        for k in range(count):
            line = np.clip(rng.random(2) + np.cumsum(rng.normal(0, 0.05, (int(sizes[c][k]), 2)), 0), 0, 0.999)
            points[c][k, : len(line)] = line
            pixels = (line * MAP.map_size).astype(np.int32)[:, ::-1]
            cv2.polylines(mask[c], [np.ascontiguousarray(pixels)], False, (identifier,), MAP.mask_thickness)
            identifier += 2
    return mask, points, sizes


def targets(*counts: tuple[int, int, int], seed: int = 0) -> Targets:
    """Targets of a batch; each sample's counts by class."""
    return build_targets([sample(seed + b, n) for b, n in enumerate(counts)], CONFIG)


def predictions(batch: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Predictions:
    """Random predictions that require a gradient."""
    generator = torch.Generator().manual_seed(seed)
    d, e = len(CONFIG.criterion.decoder_weights), len(CONFIG.criterion.bev_weights)
    q, t, size = MAP.total_queries, MAP.total_points, CONFIG.mask_size

    def leaf(value: Tensor) -> Tensor:
        return value.to(dtype).requires_grad_()

    return Predictions(
        object_logits=leaf(torch.randn(d, batch, q, 2, generator=generator)),
        points=leaf(torch.rand(d, batch, t, 2, generator=generator)),
        point_logits=leaf(torch.randn(d, batch, t, 2, generator=generator)),
        masks=leaf(torch.randn(d, batch, q, *size, generator=generator) * 3),
        semantic_logits=leaf(torch.randn(e, batch, 3, 2, *size, generator=generator) * 3),
    )


def part(predicted: Predictions, samples: slice) -> Predictions:
    """Some samples of a batch, as leaves of their own."""
    own = {name: getattr(predicted, name)[:, samples].detach().clone().requires_grad_() for name in FIELDS}
    return Predictions(**own)


def target_part(batch: Targets, samples: slice) -> Targets:
    """Some samples of a batch of targets."""
    names = ("points", "lengths", "counts", "masks", "semantic")
    return Targets(**{name: getattr(batch, name)[samples] for name in names})


def gradients(predicted: Predictions) -> dict[str, Tensor]:
    """The gradients of all predictions by field."""
    return {name: getattr(predicted, name).grad for name in FIELDS}
