"""Inputs of a step: images, cameras and drawn targets from a seed, any batch size."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recordings import inputs

from pivotnet.config import CAMERAS, Config
from pivotnet.data.projection import project_bev_grid
from pivotnet.data.targets import build_targets
from pivotnet.structures import Batch, Targets


def target_samples(seed: int, case: str, batch_size: int) -> list[tuple[Any, Any, Any]]:
    """What build_targets takes, one a sample."""
    drawn = [inputs.target(seed + index, case) for index in range(batch_size)]
    return [(target["masks"], target["points"], target["valid_len"]) for target in drawn]


def targets(config: Config, seed: int, case: str, batch_size: int) -> Targets:
    """Targets of a batch."""
    return build_targets(target_samples(seed, case, batch_size), config)


def batch(config: Config, seed: int, case: str, batch_size: int) -> Batch:
    """A batch in host memory, as the loader gives it."""
    height, width = config.model.image_size
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (batch_size, len(CAMERAS), height, width, 3), dtype=np.uint8)
    places, seen = [], []
    for index in range(batch_size):
        extrinsic, intrinsic = inputs.cameras(seed + index)
        points, valid = project_bev_grid(extrinsic[0], intrinsic[0], config.model.bev_size, config.map)
        places.append(torch.as_tensor(points))
        seen.append(torch.as_tensor(valid))
    return Batch(
        images=torch.from_numpy(images),
        reference_points=torch.stack(places),
        reference_valid=torch.stack(seen),
        tokens=[f"sample {index}" for index in range(batch_size)],
        targets=targets(config, seed, case, batch_size),
    )
