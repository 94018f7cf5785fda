"""Multi-scale deformable attention on a GPU, in Triton. A program computes some queries of one head of one sample, in
float32. Backward, it samples again, so that nothing but the inputs is kept. A cell gets its gradient from many programs
by atomic additions in float32: their order, and with it the last bits, differ from run to run, as with grid_sample.
Letters in shapes: B samples, S cells of all levels, L queries, c channels of a head; of a program Q queries and C
channels, which is c rounded up to a power of two."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAM_QUERIES = 16


def forward(value: Tensor, sizes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    """The operator of deformable_attention.py, with ``value`` in any floating type."""
    output = weights.new_empty(*weights.shape[:3], value.shape[-1])
    _launch(_forward_kernel, value, sizes, locations, weights, output)
    return output.flatten(2)


def backward(
    gradient: Tensor, value: Tensor, locations: Tensor, weights: Tensor, sizes: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    grad_value = torch.zeros_like(value, dtype=torch.float32, memory_format=torch.contiguous_format)
    grad_locations, grad_weights = (torch.empty_like(x).contiguous() for x in (locations, weights))
    _launch(_backward_kernel, value, sizes, locations, weights, gradient, grad_value, grad_locations, grad_weights)
    return grad_value.to(value.dtype), grad_locations, grad_weights


def _launch(kernel: Any, value: Tensor, sizes: list[int], *tensors: Tensor) -> None:
    """Start a kernel for all queries; ``tensors`` begin with the locations and weights."""
    batch, queries, heads, levels, points = tensors[1].shape
    cells, channels = value.shape[1], value.shape[3]
    grid = (triton.cdiv(queries, PROGRAM_QUERIES), batch * heads)
    arguments = [value, _on_device(tuple(sizes), value.device), *tensors]
    constants = {"LEVELS": levels, "POINTS": points, "Q": PROGRAM_QUERIES, "C": triton.next_power_of_2(channels)}
    kernel[grid](*(tensor.contiguous() for tensor in arguments), cells, queries, heads, channels, **constants)


@lru_cache(maxsize=32)
def _on_device(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """(h, w) of each level, copied to the device once."""
    return torch.tensor(sizes, dtype=torch.int32, device=device)


@triton.jit
def _program(queries, heads, Q: tl.constexpr):
    """Sample, head, queries of this program [Q], and their indices in [B, L, heads]."""
    sample = (tl.program_id(1) // heads).to(tl.int64)
    head = tl.program_id(1) % heads
    query = tl.program_id(0) * Q + tl.arange(0, Q)
    return sample, head, query, (sample * queries + query) * heads + head


@triton.jit
def _sample(locations, weights, at, real, height, width):
    """Positions in cells of one sample of each query, and its weight; queries that are not real sample nothing."""
    x = tl.load(locations + 2 * at, mask=real, other=-1.0) * width - 0.5
    y = tl.load(locations + 2 * at + 1, mask=real, other=-1.0) * height - 0.5
    return x, y, tl.load(weights + at, mask=real, other=0.0)


@triton.jit
def _corner(x, y, height, width, corner: tl.constexpr):
    """One of the four cells around each sample: whether it is in the map, its index there, and its share of the sample
    along x and y."""
    column = tl.floor(x) + corner % 2
    row = tl.floor(y) + corner // 2
    # also false for NaN: a diverged network is reported by its loss
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    cell = tl.where(inside, row * width + column, 0.0).to(tl.int32)
    return inside, cell, 1 - tl.abs(x - column), 1 - tl.abs(y - row)


@triton.jit
def _forward_kernel(
    value,
    sizes,
    locations,
    weights,
    output,
    cells,
    queries,
    heads,
    channels,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    Q: tl.constexpr,
    C: tl.constexpr,
):
    sample, head, query, index = _program(queries, heads, Q)
    channel = tl.arange(0, C)[None, :]
    total = tl.zeros([Q, C], tl.float32)
    first = sample * cells
    for level in range(LEVELS):
        height, width = tl.load(sizes + 2 * level), tl.load(sizes + 2 * level + 1)
        for point in range(POINTS):
            at = (index * LEVELS + level) * POINTS + point
            x, y, weight = _sample(locations, weights, at, query < queries, height, width)
            for corner in tl.static_range(4):
                inside, cell, along, across = _corner(x, y, height, width, corner)
                place = ((first + cell) * heads + head)[:, None] * channels + channel
                features = tl.load(value + place, mask=inside[:, None] & (channel < channels), other=0.0)
                total += tl.where(inside, weight * along * across, 0.0)[:, None] * features.to(tl.float32)
        first += height * width
    real = (query < queries)[:, None] & (channel < channels)
    tl.store(output + index[:, None] * channels + channel, total, mask=real)


@triton.jit
def _backward_kernel(
    value,
    sizes,
    locations,
    weights,
    gradient,
    grad_value,
    grad_locations,
    grad_weights,
    cells,
    queries,
    heads,
    channels,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    Q: tl.constexpr,
    C: tl.constexpr,
):
    sample, head, query, index = _program(queries, heads, Q)
    channel = tl.arange(0, C)[None, :]
    real = query < queries
    grad = tl.load(gradient + index[:, None] * channels + channel, mask=real[:, None] & (channel < channels), other=0.0)
    first = sample * cells
    for level in range(LEVELS):
        height, width = tl.load(sizes + 2 * level), tl.load(sizes + 2 * level + 1)
        for point in range(POINTS):
            at = (index * LEVELS + level) * POINTS + point
            x, y, weight = _sample(locations, weights, at, real, height, width)
            grad_x = tl.zeros([Q], tl.float32)
            grad_y = tl.zeros([Q], tl.float32)
            grad_weight = tl.zeros([Q], tl.float32)
            for corner in tl.static_range(4):
                inside, cell, along, across = _corner(x, y, height, width, corner)
                place = ((first + cell) * heads + head)[:, None] * channels + channel
                mask = inside[:, None] & (channel < channels)
                features = tl.load(value + place, mask=mask, other=0.0).to(tl.float32)
                product = tl.sum(grad * features, 1)
                grad_weight += along * across * product
                grad_x += (2 * (corner % 2) - 1) * across * product
                grad_y += (2 * (corner // 2) - 1) * along * product
                share = weight * along * across
                tl.atomic_add(grad_value + place, share[:, None] * grad, mask=mask, sem="relaxed")
            tl.store(grad_weights + at, grad_weight, mask=real)
            tl.store(grad_locations + 2 * at, grad_x * weight * width, mask=real)
            tl.store(grad_locations + 2 * at + 1, grad_y * weight * height, mask=real)
        first += height * width
