"""The complete network on a small configuration: shapes, options, batches, precision, and what runs on the device."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support.random_targets import FIELDS
from support.small_network import MAP, MODEL, network_inputs, small_network

from pivotnet.model.pivotnet import PivotNet
from pivotnet.model.point_head import PointHead


@pytest.fixture
def network() -> PivotNet:
    return small_network().eval()


@pytest.mark.parametrize("recompute", [False, True])
def test_checkpointing_keeps_no_features_of_pixels(recompute):
    head = PointHead(dataclasses.replace(MODEL, checkpointing=recompute), MAP)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (kept.append(tensor.numel()), tensor)[1], lambda x: x):
        head.mean_coordinate_features()
    per_pixel = [numel for numel in kept if numel > head.coordinates.numel()]
    assert bool(per_pixel) != recompute


@torch.no_grad()
def test_final_only_is_the_last_decoder(network):
    everything, final = network(*network_inputs(1)), network(*network_inputs(1), final_only=True)
    for name in ("object_logits", "points", "point_logits"):
        torch.testing.assert_close(getattr(final, name), getattr(everything, name)[-1:])
    assert final.masks is None and final.semantic_logits is None


@torch.no_grad()
def test_batch_equals_singles(network):
    batch = network_inputs(3)
    together = network(*batch)
    for b in range(3):
        alone = network(*(tensor[b : b + 1] for tensor in batch))
        for name in FIELDS:
            wanted = getattr(alone, name)
            torch.testing.assert_close(getattr(together, name)[:, b : b + 1], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("amp", [False, True])
def test_every_parameter_gets_a_gradient_and_bfloat16_stays_near_float32(network, amp):
    """Distributed training waits for every parameter's gradient."""
    exact = network(*network_inputs(2))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
        predictions = network.train()(*network_inputs(2))
    outputs = [getattr(predictions, name) for name in FIELDS]
    assert all(tensor.dtype == torch.float32 for tensor in outputs)
    sum(tensor.square().mean() for tensor in outputs).backward()
    assert not [key for key, parameter in network.named_parameters() if parameter.grad is None]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
        rounded = network.eval()(*network_inputs(2))
    assert (exact.points - rounded.points).abs().max() < 0.05
    assert (exact.object_logits - rounded.object_logits).abs().max() < 0.3
