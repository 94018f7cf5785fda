"""Networks of the presets on small images and a coarse grid."""

import dataclasses
from typing import Any

import torch
from recordings.rule import fill

from pivotnet.config import Config, preset
from pivotnet.model.pivotnet import PivotNet


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
