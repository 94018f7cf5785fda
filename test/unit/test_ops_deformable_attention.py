"""Deformable attention against a reference that follows the definition cell by cell."""

import itertools
import math

import pytest
import torch

from pivotnet.model.ops.deformable_attention import multi_scale_deformable_attention, sample_levels

SHAPES = ((3, 5), (2, 2))


def inputs(batch=2, queries=4, heads=2, channels=3, points=2, shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(batch, sum(h * w for h, w in shapes), heads, channels, generator=generator)
    # also well outside the map, where nothing is sampled
    locations = torch.rand(batch, queries, heads, len(shapes), points, 2, generator=generator) * 1.6 - 0.3
    weights = torch.rand(batch, queries, heads, len(shapes), points, generator=generator)
    return value, locations, weights


def reference(value, shapes, locations, weights):
    output = torch.zeros(*weights.shape[:3], value.shape[-1])
    starts = [0, *itertools.accumulate(h * w for h, w in shapes)]
    for b, q, m, level, p in itertools.product(*map(range, weights.shape)):
        height, width = shapes[level]
        x, y = (locations[b, q, m, level, p] * torch.tensor([width, height]) - 0.5).tolist()
        for row, column in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
            if 0 <= row < height and 0 <= column < width:
                weight = weights[b, q, m, level, p] * (1 - abs(x - column)) * (1 - abs(y - row))
                output[b, q, m] += weight * value[b, starts[level] + row * width + column, m]
    return output.flatten(2)


# what runs on this machine, and what runs on devices without a kernel of their own
@pytest.mark.parametrize("attention", [multi_scale_deformable_attention, sample_levels])
def test_equals_the_definition(attention):
    value, locations, weights = inputs()
    output = attention(value, SHAPES, locations, weights)
    torch.testing.assert_close(output, reference(value, SHAPES, locations, weights), rtol=1e-5, atol=1e-5)


def test_computes_in_float32_under_autocast():
    value, locations, weights = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = multi_scale_deformable_attention(value.bfloat16(), SHAPES, locations, weights)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, sample_levels(value.bfloat16().float(), SHAPES, locations, weights))


def test_nan_locations_do_not_stop_the_program():
    """A diverged network is reported by its loss; the operator must not fail on an index before that."""
    value, locations, weights = inputs()
    locations[0, 0] = float("nan")
    locations[0, 1] = float("inf")
    assert multi_scale_deformable_attention(value, SHAPES, locations, weights).shape == (2, 4, 6)


def test_gradients_are_those_that_autograd_gives_grid_sample():
    shapes = ((40, 60), (20, 30))
    tensors = inputs(batch=1, queries=300, heads=4, channels=8, points=4, shapes=shapes)
    found = []
    for attention in (multi_scale_deformable_attention, sample_levels):
        value, locations, weights = leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        output = attention(value, shapes, locations, weights)
        outer = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
        found.append([output, *torch.autograd.grad(output, leaves, outer)])
    for ours, plain in zip(*found):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4 * float(plain.detach().abs().max()))
