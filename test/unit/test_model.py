"""The network with each backbone, on small images: options, batches, precision, and what is kept or made once.

Features, gradients, statistics (kept and recomputed, with stochastic depth) and initial weights are compared with
upstream's in test/golden.
"""

import pytest
import torch
from support.random_targets import FIELDS
from support.small_network import network as build
from support.small_network import small

from pivotnet.audit.sample import random_batch
from pivotnet.criterion.criterion import Criterion
from pivotnet.model.backbone.swin import shift_mask
from pivotnet.model.point_head import PointHead
from pivotnet.training.execution import MixedPrecision

BATCH = random_batch(small("smoke"), 1, 0)
ONE = (BATCH.images, BATCH.reference_points, BATCH.reference_valid)


@pytest.fixture(params=["swint", "res50", "effb0"])
def network(request):
    return build(small(request.param))


@torch.no_grad()
def test_a_batch_equals_its_samples_and_final_only_is_the_last_decoder(network):
    other = random_batch(small("smoke"), 1, 1)
    samples = [ONE, (other.images, other.reference_points, other.reference_valid)]
    together = network.eval()(*(torch.cat(parts) for parts in zip(*samples)))
    for b, own in enumerate(samples):
        alone, final = network(*own), network(*own, final_only=True)
        for name in FIELDS:
            wanted = getattr(alone, name)
            torch.testing.assert_close(getattr(together, name)[:, b : b + 1], wanted, rtol=1e-4, atol=1e-4)
            last = None if name in ("masks", "semantic_logits") else wanted[-1:]
            torch.testing.assert_close(getattr(final, name), last)


def test_every_parameter_gets_a_gradient_and_bfloat16_stays_near_float32(network):
    """Distributed training waits for every parameter's gradient."""
    with torch.no_grad():
        exact = network.eval()(*ONE)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = network(*ONE)
    assert (exact.points - rounded.points).abs().max() < 0.05
    assert (exact.object_logits - rounded.object_logits).abs().max() < 0.3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predictions = network.train()(*ONE)
    outputs = [getattr(predictions, name) for name in FIELDS]
    assert all(tensor.dtype == torch.float32 for tensor in outputs)
    sum(tensor.square().mean() for tensor in outputs).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize(("name", "checkpointing"), [("smoke", True), ("swint", False)])
def test_weights_that_are_cast_together_give_what_autocast_gives(name, checkpointing):
    config = small(name, checkpointing=checkpointing, dropout=0.1)
    model, found = build(config).train(), []
    for network in (model, MixedPrecision(model, torch.bfloat16)):
        torch.manual_seed(0)
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=network is model):
            predictions = network(*ONE)
        total = Criterion(config)(predictions, BATCH.targets).total
        total.backward()
        found.append({"loss": total.detach(), **{key: value.grad for key, value in model.named_parameters()}})
    torch.testing.assert_close(*found, rtol=0, atol=0)


@pytest.mark.parametrize("recompute", [False, True])
def test_checkpointing_keeps_no_features_of_pixels(recompute):
    config = small("smoke", checkpointing=recompute)
    head, kept = PointHead(config.model, config.map), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (kept.append(tensor.numel()), tensor)[1], lambda x: x):
        head.mean_coordinate_features()
    assert any(numel > head.coordinates.numel() for numel in kept) != recompute


def test_shift_mask_is_made_once_and_survives_inference_mode():
    shift_mask.cache_clear()
    with torch.inference_mode():
        first = shift_mask(14, 7, torch.device("cpu"))
    assert shift_mask(14, 7, torch.device("cpu")) is first
    assert not first.is_inference()
