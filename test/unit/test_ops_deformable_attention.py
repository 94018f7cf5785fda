"""Deformable attention against a reference that follows the definition cell by cell."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from pivotnet.model.ops.deformable_attention import multi_scale_deformable_attention, sample_levels

SHAPES = ((3, 5), (2, 2))
# what runs on this machine, and what runs on devices without a kernel of their own
BOTH = pytest.mark.parametrize("attention", [multi_scale_deformable_attention, sample_levels])


def inputs(batch=2, queries=4, heads=2, channels=3, points=2, shapes=SHAPES, dtype=torch.float32, spread=0.8):
    generator = torch.Generator().manual_seed(0)
    cells = sum(h * w for h, w in shapes)
    value = torch.randn(batch, cells, heads, channels, generator=generator, dtype=dtype)
    # also well outside the map, where nothing is sampled
    uniform = torch.rand(batch, queries, heads, len(shapes), points, 2, generator=generator, dtype=dtype)
    locations = (uniform - 0.5) * 2 * spread + 0.5
    weights = torch.rand(batch, queries, heads, len(shapes), points, generator=generator, dtype=dtype)
    return value, locations, weights


def reference(value, shapes, locations, weights):
    batch, queries, heads, levels, points, _ = locations.shape
    channels = value.shape[-1]
    output = torch.zeros(batch, queries, heads, channels, dtype=value.dtype)
    starts = [0, *itertools.accumulate(h * w for h, w in shapes)]
    for b, q, m, level, p in itertools.product(*map(range, (batch, queries, heads, levels, points))):
        height, width = shapes[level]
        x = float(locations[b, q, m, level, p, 0]) * width - 0.5
        y = float(locations[b, q, m, level, p, 1]) * height - 0.5
        for row, column in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
            if 0 <= row < height and 0 <= column < width:
                share = (1 - abs(x - column)) * (1 - abs(y - row))
                cell = starts[level] + row * width + column
                output[b, q, m] += float(weights[b, q, m, level, p]) * share * value[b, cell, m]
    return output.flatten(2)


@BOTH
def test_equals_the_definition(attention):
    value, locations, weights = inputs()
    output = attention(value, SHAPES, locations, weights)
    torch.testing.assert_close(output, reference(value, SHAPES, locations, weights), rtol=1e-5, atol=1e-5)


@BOTH
def test_samples_on_cell_centres_and_borders(attention):
    value = torch.arange(6.0).view(1, 6, 1, 1)
    centres = torch.tensor([[0.5 / 3, 0.25], [2.5 / 3, 0.75], [0.0, 0.25], [1.0, 0.75], [-0.5 / 3, 0.25]])
    locations = centres.view(1, 5, 1, 1, 1, 2)
    output = attention(value, ((2, 3),), locations, torch.ones(1, 5, 1, 1, 1))
    # the border lies half a cell outside the centre of the last cell: half of it is zero padding
    torch.testing.assert_close(output.flatten(), torch.tensor([0.0, 5.0, 0.0, 2.5, 0.0]))


def gradients(function, value, locations, weights):
    leaves = [tensor.clone().requires_grad_() for tensor in (value, locations, weights)]
    output = function(*leaves)
    generator = torch.Generator().manual_seed(1)
    output.backward(torch.randn(output.shape, generator=generator).to(output.dtype))
    return [leaf.grad for leaf in leaves]


@BOTH
def test_gradients_equal_finite_differences(attention):
    tensors = inputs()
    ours = gradients(lambda v, x, w: attention(v, SHAPES, x, w), *tensors)
    generator = torch.Generator().manual_seed(1)
    upstream_gradient = torch.randn(2, 4, 6, generator=generator).double()
    for index, gradient in enumerate(ours):
        doubles = [tensor.double() for tensor in tensors]
        direction = torch.randn(gradient.shape, generator=generator).double()
        step = 1e-6
        ends = []
        for sign in (1, -1):
            moved = list(doubles)
            moved[index] = doubles[index] + sign * step * direction
            ends.append((reference(moved[0], SHAPES, moved[1], moved[2]) * upstream_gradient).sum())
        slope = float(ends[0] - ends[1]) / (2 * step)
        assert float((gradient.double() * direction).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-4)


def test_computes_in_float32_under_autocast():
    value, locations, weights = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = multi_scale_deformable_attention(value.bfloat16(), SHAPES, locations, weights)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, sample_levels(value.bfloat16().float(), SHAPES, locations, weights))


@BOTH
def test_batch_equals_singles(attention):
    value, locations, weights = inputs(batch=3)
    together = attention(value, SHAPES, locations, weights)
    for b in range(3):
        one = slice(b, b + 1)
        alone = attention(value[one], SHAPES, locations[one], weights[one])
        torch.testing.assert_close(together[one], alone)


def test_nan_locations_do_not_stop_the_program():
    """A diverged network is reported by its loss; the operator must not fail on an index before that."""
    value, locations, weights = inputs()
    locations[0, 0] = float("nan")
    locations[0, 1] = float("inf")
    assert multi_scale_deformable_attention(value, SHAPES, locations, weights).shape == (2, 4, 6)


def test_both_ways_agree_on_a_large_map():
    shapes = ((40, 60), (20, 30))
    tensors = inputs(batch=1, queries=300, heads=4, channels=8, points=4, shapes=shapes)
    ours = gradients(lambda v, x, w: multi_scale_deformable_attention(v, shapes, x, w), *tensors)
    plain = gradients(lambda v, x, w: sample_levels(v, shapes, x, w), *tensors)
    for first, second in zip(ours, plain):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4 * float(second.abs().max()))
