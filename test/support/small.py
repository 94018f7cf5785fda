"""Small networks, random predictions and drawn targets (``random_batch`` of pivotnet.audit makes whole batches)."""

import dataclasses
from typing import Any

import numpy as np
import torch
from recordings.inputs import fill

from pivotnet.audit.sample import random_lines
from pivotnet.config import Config, CriterionConfig, preset
from pivotnet.data.targets import build_targets
from pivotnet.model.pivotnet import PivotNet
from pivotnet.structures import Predictions, Targets

# upstream's classes with 3 line decoders, 2 BEV decoders and masks of 100 x 50
CONFIG = dataclasses.replace(
    preset("swint"),
    model=dataclasses.replace(preset("swint").model, mask_stride=4),
    criterion=CriterionConfig(decoder_weights=(0.4, 0.8, 1.6), bev_weights=(0.8, 2.4)),
)
MAP = CONFIG.map
FIELDS = ("object_logits", "points", "point_logits", "masks", "semantic_logits")


def sample(seed: int, counts: tuple[int, ...], lengths: tuple[int, ...] = ()) -> tuple:
    """(instance mask, points, lengths) with that many instances by class; ``lengths`` fixes the first dividers'."""
    return random_lines(MAP, np.random.default_rng(seed), counts, lengths)


def targets(*counts: tuple[int, ...]) -> Targets:
    """Targets of a batch; each sample's counts by class."""
    return build_targets([sample(b, n) for b, n in enumerate(counts)], CONFIG)


def predictions(batch: int, size: tuple[int, int] = CONFIG.mask_size) -> Predictions:
    """Random predictions that require a gradient, with masks of ``size``."""
    generator = torch.Generator().manual_seed(0)
    d, e = len(CONFIG.criterion.decoder_weights), len(CONFIG.criterion.bev_weights)
    q, t = MAP.total_queries, MAP.total_points
    drawn = (
        torch.randn(d, batch, q, 2, generator=generator),
        torch.rand(d, batch, t, 2, generator=generator),
        torch.randn(d, batch, t, 2, generator=generator),
        torch.randn(d, batch, q, *size, generator=generator) * 3,
        torch.randn(e, batch, 3, 2, *size, generator=generator) * 3,
    )
    return Predictions(*(value.requires_grad_() for value in drawn))


def target_part(batch: Targets, samples: slice) -> Targets:
    names = ("points", "lengths", "counts", "masks", "semantic")
    return Targets(**{name: getattr(batch, name)[samples] for name in names})


def small(name: str, **changes: Any) -> Config:
    """A preset on small images and a coarse grid, and without randomness: no dropout, no drop path."""
    config = preset(name)
    own = {"image_size": (64, 96), "bev_size": (16, 8), "mask_stride": 4}
    own |= {"dropout": 0.0, "drop_path": 0.0, "drop_connect": 0.0, **changes}
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **own))


def network(config: Config) -> PivotNet:
    """The network with every weight set by its name: no layer keeps initial values with which errors go unnoticed."""
    torch.manual_seed(0)
    built = PivotNet(config.model, config.map)
    fill(built.state_dict())
    return built
