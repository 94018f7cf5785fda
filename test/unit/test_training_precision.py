"""Weights that are cast together give what autocast gives, which casts one by one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pivotnet.audit.sample import random_batch
from pivotnet.config import preset
from pivotnet.criterion.criterion import Criterion
from pivotnet.model.pivotnet import PivotNet
from pivotnet.training.precision import MixedPrecision


@pytest.mark.parametrize(("name", "checkpointing"), [("smoke", True), ("swint", False)])
def test_loss_and_gradients_equal_those_of_autocast(name: str, checkpointing: bool):
    config = preset(name)
    small = {"image_size": (64, 96), "bev_size": (16, 8), "mask_stride": 4, "checkpointing": checkpointing}
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **small))
    torch.manual_seed(0)
    model = PivotNet(config.model, config.map).train()
    batch = random_batch(config, 1, 0)
    found = []
    for network in (model, MixedPrecision(model, torch.bfloat16)):
        torch.manual_seed(0)
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=network is model):
            predictions = network(batch.images, batch.reference_points, batch.reference_valid)
        total = Criterion(config)(predictions, batch.targets).total
        total.backward()
        found.append([total, *(parameter.grad for parameter in model.parameters())])
    names = ["loss", *(name for name, _ in model.named_parameters())]
    differing = [
        name for name, mine, other in zip(names, *found) if not (mine is other is None or torch.equal(mine, other))
    ]
    assert not differing
