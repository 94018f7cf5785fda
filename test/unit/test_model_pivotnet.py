"""The complete network on a small configuration: shapes, options, batches, precision, and what runs on the device."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from support.ranks import network_share, observe_network, run_ranks
from support.small_network import MAP, MODEL, network_inputs, small_network
from torch.utils._python_dispatch import TorchDispatchMode

from pivotnet.audit.operators import waits
from pivotnet.model.pivotnet import IMAGE_MEAN, IMAGE_STD, PivotNet
from pivotnet.model.point_head import PointHead

D, E, Q, T = MODEL.line_decoder_layers, MODEL.bev_decoder_layers, MAP.total_queries, MAP.total_points


@pytest.fixture(scope="module")
def network() -> PivotNet:
    return small_network().eval()


@torch.no_grad()
def test_shapes(network):
    predictions = network(*network_inputs(2))
    assert predictions.object_logits.shape == (D, 2, Q, 2)
    assert predictions.points.shape == predictions.point_logits.shape == (D, 2, T, 2)
    assert predictions.masks.shape == (D, 2, Q, *MODEL.bev_size)
    assert predictions.semantic_logits.shape == (E, 2, 3, 2, *MODEL.bev_size)
    assert 0 <= predictions.points.min() and predictions.points.max() <= 1


@pytest.mark.parametrize("recompute", [False, True])
def test_mean_coordinate_features_and_their_gradients(network, monkeypatch, recompute):
    """Equal, to the bit, to the mean over all pixels of what autograd differentiates by itself."""
    monkeypatch.setattr(network.output_head, "checkpointing", recompute)
    head = network.output_head.coords_head
    parameters = list(head.parameters())
    mean = network.output_head.mean_coordinate_features()
    weights = torch.linspace(-1, 1, len(mean))
    gradients = torch.autograd.grad((mean * weights).sum(), parameters)

    pixels = network.output_head.coordinates
    first, second, last = [
        lambda x, layer=layer: torch.nn.functional.linear(x, layer.weight.flatten(1), layer.bias)
        for layer in head.layers
    ]
    plain = last(second(first(pixels).relu()).relu().mean(dim=0))
    assert torch.equal(plain, mean)
    for gradient, expected in zip(gradients, torch.autograd.grad((plain * weights).sum(), parameters)):
        assert torch.equal(gradient, expected)
    # and to the mean of the last layer's output, which upstream takes, but for rounding
    everywhere = last(second(first(pixels).relu()).relu())
    torch.testing.assert_close(everywhere.mean(dim=0), mean, rtol=1e-5, atol=1e-6)


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
        for name in ("object_logits", "points", "point_logits", "masks", "semantic_logits"):
            wanted = getattr(alone, name)
            torch.testing.assert_close(getattr(together, name)[:, b : b + 1], wanted, rtol=1e-4, atol=1e-4)


def test_uint8_images_are_normalised_as_upstream_does(network):
    images = torch.randint(0, 256, (1, 2, 4, 6, 3), dtype=torch.uint8)
    ours = network.normalise(images)
    # upstream swaps RGB as if it were BGR: the net sees blue first, with the statistics of red
    wanted = ((images.numpy() / 255 - IMAGE_MEAN) / IMAGE_STD).transpose(0, 1, 4, 2, 3)
    np.testing.assert_allclose(ours.numpy(), wanted, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_uint8_images_equal_normalised_ones(network):
    _, points, valid = network_inputs(1)
    images = torch.randint(0, 256, (1, 6, *MODEL.image_size, 3), dtype=torch.uint8)
    first = network(images, points, valid)
    second = network(network.normalise(images), points, valid)
    torch.testing.assert_close(first.masks, second.masks)


def test_every_parameter_gets_a_gradient_under_bfloat16_too(network):
    """Distributed training waits for every parameter's gradient."""
    network.train()
    try:
        for enabled in (False, True):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                predictions = network(*network_inputs(2))
            for field in dataclasses.fields(predictions):
                tensor = getattr(predictions, field.name)
                assert tensor is None or tensor.dtype == torch.float32, field.name
            network.zero_grad()
            outputs = [getattr(predictions, field.name) for field in dataclasses.fields(predictions)]
            sum(tensor.square().mean() for tensor in outputs if tensor is not None).backward()
            missing = [key for key, parameter in network.named_parameters() if parameter.grad is None]
            assert not missing
    finally:
        network.eval()


@torch.no_grad()
def test_bfloat16_stays_near_float32(network):
    exact = network(*network_inputs(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = network(*network_inputs(1))
    assert (exact.points - rounded.points).abs().max() < 0.05
    assert (exact.object_logits - rounded.object_logits).abs().max() < 0.3


class Watch(TorchDispatchMode):
    """Forbids operators that make the host wait, and wide types."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not waits(func, args), func
        output = func(*args, **(kwargs or {}))
        assert not (isinstance(output, torch.Tensor) and output.dtype == torch.float64), func
        return output


def test_nothing_waits_for_the_device_and_nothing_is_float64(network):
    network.train()
    try:
        with Watch():
            predictions = network(*network_inputs(2))
            (predictions.masks.mean() + predictions.points.mean() + predictions.semantic_logits.mean()).backward()
    finally:
        network.eval()


def test_constants_are_not_saved_and_move_with_the_network(network):
    saved = set(network.state_dict())
    buffers = dict(network.named_buffers())
    constants = {key for key in buffers if key not in saved}
    assert any(key.endswith("position") for key in constants)
    assert all(buffers[key].dtype in (torch.float32, torch.int32) for key in constants)


def test_two_ranks_equal_a_batch_of_two(tmp_path):
    """In training mode, with synchronised batch norms."""
    ranks = run_ranks(network_share, tmp_path)
    joined = observe_network(network_inputs(len(ranks)))
    total = torch.stack([t.norm() for key, t in joined.items() if key.startswith("gradient")]).norm()
    for key, wanted in joined.items():
        scale = wanted.abs().max()
        if key.startswith("output"):
            ours = torch.cat([rank[key] for rank in ranks], dim=1)
        elif key.startswith("gradient"):
            ours, scale = sum(rank[key] for rank in ranks) / len(ranks), scale + 0.01 * total
        else:
            ours = ranks[0][key]
            torch.testing.assert_close(ours, ranks[1][key], rtol=0, atol=0)
        assert float((ours - wanted).abs().max() / scale) < 1e-4, key
