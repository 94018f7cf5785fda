"""Small configurations, random inputs and drawn targets for the tests on simulated NPUs, and how to compare."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import torch
from recordings.rule import fill
from torch import Tensor

from pivotnet.config import Config, preset
from pivotnet.data.targets import build_targets
from pivotnet.model.pivotnet import PivotNet
from pivotnet.structures import Batch, Targets

CPU = torch.device("cpu")
# The ordinary test process, where torch has no NPU, reads these files too, to know their tests.
NPU = torch.device("npu" if hasattr(torch, "npu") else "cpu")


def small(name: str, **changes: object) -> Config:
    """A preset on small images and a coarse grid, and without chance: no dropout, no drop path."""
    config = preset(name)
    quiet: dict[str, object] = {"image_size": (64, 96), "bev_size": (16, 8), "mask_stride": 4}
    quiet.update(dropout=0.0, drop_path=0.0)
    model = dataclasses.replace(config.model, **{**quiet, "drop_connect": 0.0, **changes})  # type: ignore[arg-type]
    return dataclasses.replace(config, model=model)


def network(config: Config) -> PivotNet:
    """The network with every weight set by its name: no layer is left at a start that hides errors."""
    torch.manual_seed(0)
    built = PivotNet(config.model, config.map)
    fill(built.state_dict())
    return built


def targets(config: Config, seed: int, samples: int = 1) -> Targets:
    """Two dividers, a crossing and three boundaries a sample, as random walks."""
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(samples):
        mask = np.zeros((3, *config.map.map_size), np.uint8)
        points: dict[int, np.ndarray] = {}
        lengths: dict[int, np.ndarray] = {}
        identifier = 0
        for kind, (count, most) in enumerate(zip((2, 1, 3), config.map.max_points)):
            points[kind] = np.zeros((count, most, 2))
            lengths[kind] = rng.integers(2, most + 1, count)
            for line, length in zip(points[kind], lengths[kind]):
                steps = rng.normal(0, 0.06, (int(length), 2))
                line[:length] = np.clip(rng.random(2) + np.cumsum(steps, 0), 0, 0.999)
                pixels = (line[:length] * config.map.map_size).astype(np.int32)[:, ::-1]
                identifier += 2
                cv2.polylines(mask[kind], [np.ascontiguousarray(pixels)], False, (identifier,), 8)
        drawn.append((mask, points, lengths))
    return build_targets(drawn, config)


def batch(config: Config, seed: int = 0, samples: int = 1) -> Batch:
    """Random images, cells that look anywhere (one in five sees nothing), and targets."""
    generator = torch.Generator().manual_seed(seed)
    height, width = config.model.image_size
    cells = config.model.bev_size[0] * config.model.bev_size[1]
    return Batch(
        images=torch.randint(0, 256, (samples, 6, height, width, 3), dtype=torch.uint8, generator=generator),
        reference_points=torch.rand(samples, cells, 2, generator=generator),
        reference_valid=torch.rand(samples, cells, generator=generator) > 0.2,
        tokens=[f"{seed}-{index}" for index in range(samples)],
        targets=targets(config, seed, samples),
    )


def assert_near(actual: Tensor, expected: Tensor, share: float = 1e-5, what: str = "") -> None:
    """Every difference is at most ``share`` of the largest expected value (or of 1, if that is larger)."""
    assert actual.shape == expected.shape and actual.dtype == expected.dtype, what
    if expected.numel() == 0:
        return
    actual, expected = actual.detach().cpu().double(), expected.detach().cpu().double()
    assert torch.isfinite(expected).all(), what
    limit = share * max(1.0, float(expected.abs().max()))
    difference = float((actual - expected).abs().max())
    assert difference <= limit, f"{what}: differs by {difference:.3g}, allowed is {limit:.3g}"
