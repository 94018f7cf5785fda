"""Multi-scale deformable attention on a CPU.

One head of one sample is computed at a time, so that its feature map and all intermediate results stay in the cache.
The four corners of the bilinear samples are four weighted sums of rows of that map: embedding bags, whose bags are the
queries. The gradient of the map is made of the same sums with the roles exchanged: samples are sorted by their cell,
and the bags are the cells. A border of zeros around each level takes the place of bounds checks.

Against grid_sample this reads a sample's channels as one row instead of one by one, and keeps nothing of the size
queries x samples x channels.

Letters in shapes: B samples, S cells, L queries, K = levels * points samples of a query, c channels of a head, P cells
of all levels with their borders.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

Shapes = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Layout:
    """Constants of a combination of levels, points and queries."""

    shapes: Shapes
    starts: tuple[int, ...]  # first row of each level in the padded map, and after the last one its length P
    steps: tuple[tuple[int, ...], ...]  # rows from a sample's upper left cell to its corners, [4][levels]
    width: Tensor  # of a sample's level, cells, [K]
    height: Tensor  # [K]
    origin: Tensor  # row of the padded map where a sample's cell (0, 0) lies, [K]
    corner: Tensor  # int32, ``steps`` for each sample, [4, K]
    bags: Tensor  # int32, first sample of each query, [L]
    query: Tensor  # int32, query of each sample, [L * K]
    cells: Tensor  # rows of the padded map, [P], of the type that samples are sorted by


@lru_cache(maxsize=32)
def _layout(shapes: Shapes, points: int, queries: int) -> _Layout:
    starts = [0]
    for height, width in shapes:
        starts.append(starts[-1] + (height + 2) * (width + 2))
    steps = tuple(zip(*((0, 1, width + 2, width + 3) for _, width in shapes)))

    def by_sample(values: list[Any]) -> Tensor:
        return torch.tensor(values).repeat_interleave(points, dim=-1)

    samples = len(shapes) * points
    return _Layout(
        shapes=shapes,
        starts=tuple(starts),
        steps=steps,
        width=by_sample([float(width) for _, width in shapes]),
        height=by_sample([float(height) for height, _ in shapes]),
        origin=by_sample([float(start + width + 3) for start, (_, width) in zip(starts, shapes)]),
        corner=by_sample([list(row) for row in steps]).int(),
        bags=torch.arange(0, queries * samples, samples, dtype=torch.int32),
        query=torch.arange(queries, dtype=torch.int32).repeat_interleave(samples),
        cells=torch.arange(starts[-1], dtype=torch.int16 if starts[-1] < 2**15 else torch.int32),  # 16 bits sort faster
    )


def deformable_attention(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """The operator of deformable_attention.py: same shapes, float32 tensors of the CPU."""
    return _DeformableAttention.apply(value, shapes, locations, weights)


class _DeformableAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(value, locations, weights)
        ctx.sizes = [size for shape in shapes for size in shape]
        return torch.ops.pivotnet.deformable_attention(value, ctx.sizes, locations, weights)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:  # type: ignore[override]
        grads = torch.ops.pivotnet.deformable_attention_backward(gradient, *ctx.saved_tensors, ctx.sizes)
        return grads[0], None, grads[1], grads[2]


def _forward(value: Tensor, sizes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    batch, queries, heads, levels, points = weights.shape
    layout = _layout(tuple(zip(sizes[::2], sizes[1::2])), points, queries)
    padded = _pad(value, layout)
    output = value.new_empty(batch, queries, heads, value.shape[-1])
    for b in range(batch):
        for head in range(heads):
            place = _CellIndices(locations[b, :, head].flatten(1, 2), layout)
            corners = zip(place.corners(), place.shares(weights[b, :, head].flatten(1)))
            output[b, :, head] = sum(_bags(padded[b, head], rows, layout.bags, shares) for rows, shares in corners)
    return output.flatten(2)


def _backward(
    gradient: Tensor, value: Tensor, locations: Tensor, weights: Tensor, sizes: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    batch, queries, heads, levels, points = weights.shape
    samples = levels * points
    layout = _layout(tuple(zip(sizes[::2], sizes[1::2])), points, queries)
    padded = _pad(value, layout)
    gradient = gradient.reshape(batch, queries, heads, -1)
    grad_padded = torch.zeros_like(padded)
    grad_locations, grad_weights = torch.empty_like(locations), torch.empty_like(weights)
    for b in range(batch):
        for head in range(heads):
            grad_output = gradient[b, :, head].contiguous()  # [L, c]
            weight = weights[b, :, head].flatten(1)  # [L, K]
            place = _CellIndices(locations[b, :, head].flatten(1, 2), layout)
            upper_left, upper_right, lower_left, lower_right = (
                torch.ops.aten._embedding_bag_per_sample_weights_backward(
                    grad_output, padded[b, head], rows.view(-1), layout.bags, layout.query, 0
                ).view(queries, samples)
                for rows in place.corners()
            )  # output gradient times the features of each corner
            along_upper, along_lower = upper_right.sub_(upper_left), lower_right.sub_(lower_left)
            upper = upper_left.addcmul_(place.x, along_upper)
            across = lower_left.addcmul_(place.x, along_lower).sub_(upper)
            grad_weights[b, :, head] = upper.addcmul_(place.y, across).view(queries, levels, points)
            along = along_upper.lerp_(along_lower, place.y).mul_(weight * layout.width).mul_(place.x_moves)
            across.mul_(weight * layout.height).mul_(place.y_moves)
            grad_locations[b, :, head] = torch.stack([along, across], -1).view(queries, levels, points, 2)

            cell = place.cell.view(-1).to(layout.cells.dtype)
            order = torch.from_numpy(cell.numpy().argsort(kind="stable"))
            bags = torch.searchsorted(cell[order], layout.cells)
            source = order.div(samples, rounding_mode="floor")  # query of each sorted sample
            for steps, shares in zip(layout.steps, place.shares(weight)):
                part = _bags(grad_output, source, bags, shares.view(-1)[order])
                for start, end, step in zip(layout.starts, layout.starts[1:], steps):
                    grad_padded[b, head, start + step : end] += part[start : end - step]
    return _crop(grad_padded, value, layout), grad_locations, grad_weights


class _CellIndices:
    """Where the samples of one head [L, K, 2] fall in the padded map."""

    def __init__(self, locations: Tensor, layout: _Layout) -> None:
        self._corner = layout.corner
        self.x, column, self.x_moves = _along_axis(locations[..., 0], layout.width)
        self.y, row, self.y_moves = _along_axis(locations[..., 1], layout.height)
        # row of the padded map of a sample's upper left cell, int32 [L, K]
        self.cell = column.add_(layout.origin).addcmul_(row, layout.width + 2).to(torch.int32)

    def corners(self) -> list[Tensor]:
        """Rows of upper left, upper right, lower left and lower right cells, int32 [L, K] each."""
        return [self.cell + steps for steps in self._corner]

    def shares(self, weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The weights [L, K] split among the four corners."""
        lower = weights * self.y
        upper = weights - lower
        upper_right, lower_right = upper * self.x, lower * self.x
        return upper.sub_(upper_right), upper_right, lower.sub_(lower_right), lower_right


def _along_axis(location: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fraction of the way from the cell before a sample to the one after it; that cell; whether moving changes it.

    Samples beyond the border (and NaN) are drawn to it: they read zeros there.
    """
    place = location.mul(size).sub_(0.5)
    moves = (place >= -1) & (place <= size)
    place = place.fmax(place.new_tensor(-1.0))
    place = torch.fmin(place, size, out=place)
    cell = torch.minimum(place.floor(), size - 1)
    return place.sub_(cell), cell, moves


def _bags(table: Tensor, rows: Tensor, bags: Tensor, shares: Tensor) -> Tensor:
    """Sums of rows of ``table`` [rows, c], each times its share; a bag begins where ``bags`` says."""
    return torch.embedding_bag(table, rows.view(-1), bags, False, 0, False, shares.reshape(-1))[0]


def _pad(value: Tensor, layout: _Layout) -> Tensor:
    """[B, S, heads, c] -> [B, heads, P, c]."""
    batch, _, heads, channels = value.shape
    padded = value.new_zeros(batch, heads, layout.starts[-1], channels)
    for level, inner in zip(_levels(value, layout), _inner(padded, layout)):
        inner.copy_(level)
    return padded


def _crop(padded: Tensor, like: Tensor, layout: _Layout) -> Tensor:
    """[B, heads, P, c] -> [B, S, heads, c]."""
    value = torch.empty_like(like, memory_format=torch.contiguous_format)
    for level, inner in zip(_levels(value, layout), _inner(padded, layout)):
        level.copy_(inner)
    return value


def _levels(value: Tensor, layout: _Layout) -> list[Tensor]:
    """Views of [B, S, heads, c] as maps [B, heads, h, w, c]."""
    levels = value.split([height * width for height, width in layout.shapes], dim=1)
    return [level.unflatten(1, shape).permute(0, 3, 1, 2, 4) for level, shape in zip(levels, layout.shapes)]


def _inner(padded: Tensor, layout: _Layout) -> list[Tensor]:
    """Views of [B, heads, P, c] as maps without their borders, [B, heads, h, w, c]."""
    levels = padded.split([(height + 2) * (width + 2) for height, width in layout.shapes], dim=2)
    return [
        level.unflatten(2, (height + 2, width + 2))[:, :, 1:-1, 1:-1]
        for level, (height, width) in zip(levels, layout.shapes)
    ]


# Registered as operators, they are one launch each to whoever counts, as the kernels of other devices are.
_library = torch.library.Library("pivotnet", "DEF")
_library.define("deformable_attention(Tensor value, int[] sizes, Tensor locations, Tensor weights) -> Tensor")
_library.define(
    "deformable_attention_backward(Tensor gradient, Tensor value, Tensor locations, Tensor weights, int[] sizes)"
    " -> (Tensor, Tensor, Tensor)"
)
_library.impl("deformable_attention", _forward, "CPU")
_library.impl("deformable_attention_backward", _backward, "CPU")
