"""Multi-scale deformable attention on a CPU. One head of one sample is computed at a time, so that its feature map and
all intermediate results stay in the cache. Its output is a weighted sum of rows of that map, four for each sample: an
embedding bag. Against grid_sample this reads a sample's channels as one row instead of one by one, and keeps nothing of
the size queries x samples x channels. Letters in shapes: B samples, S cells of all levels, L queries, K = levels *
points samples of a query, c channels of a head."""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def forward(value: Tensor, sizes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    """The operator of deformable_attention.py, all in float32."""
    output = value.new_empty(*weights.shape[:3], value.shape[-1])
    for b, head in np.ndindex(output.shape[0], output.shape[2]):
        corners = _Corners(locations[b, :, head], tuple(sizes))
        corner_weights = corners.split(weights[b, :, head].flatten(1))
        rows = value[b, :, head].contiguous()
        output[b, :, head] = F.embedding_bag(corners.cells, rows, mode="sum", per_sample_weights=corner_weights)
    return output.flatten(2)


def backward(
    gradient: Tensor, value: Tensor, locations: Tensor, weights: Tensor, sizes: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    batch, queries, heads, levels, points = weights.shape
    gradient = gradient.reshape(batch, queries, heads, -1)
    grad_value, grad_locations, grad_weights = (torch.empty_like(x) for x in (value, locations, weights))
    samples = 4 * levels * points  # corners count as samples
    bags = torch.arange(0, queries * samples, samples, dtype=torch.int32)
    query = torch.arange(queries, dtype=torch.int32).repeat_interleave(samples)
    counts = torch.full((queries,), samples, dtype=torch.int32)
    for b, head in np.ndindex(batch, heads):
        corners = _Corners(locations[b, :, head], tuple(sizes))
        cells, weight = corners.cells.view(-1), weights[b, :, head].flatten(1)
        rows, grad_output = value[b, :, head].contiguous(), gradient[b, :, head].contiguous()
        grad_value[b, :, head] = torch.ops.aten._embedding_bag_dense_backward(
            grad_output, cells, query, counts, counts, len(rows), False, 0, corners.split(weight).view(-1)
        )
        products = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            grad_output, rows, cells, bags, query, 0
        ).view(queries, samples)  # of the output's gradient with each corner's features
        top_left, top_right, bottom_left, bottom_right = corners.crop(products).chunk(4, 1)
        top, bottom = top_left.lerp(top_right, corners.x), bottom_left.lerp(bottom_right, corners.x)
        grad_weights[b, :, head] = top.lerp(bottom, corners.y).view(queries, levels, points)
        along = (top_right - top_left).lerp(bottom_right - bottom_left, corners.y) * weight * corners.width
        across = (bottom - top) * weight * corners.height
        grad_locations[b, :, head] = torch.stack([along, across], -1).view(queries, levels, points, 2)
    return grad_value, grad_locations, grad_weights


class _Corners:
    """The cells around the samples of one head [L, levels, points, 2]. Corners are in the order top left, top right,
    bottom left, bottom right, each [L, K], side by side in [L, 4K]."""

    def __init__(self, locations: Tensor, sizes: tuple[int, ...]) -> None:
        self.width, self.height, first = _levels(sizes, locations.shape[2])
        x, y = locations.flatten(1, 2).unbind(-1)
        x, y = x * self.width - 0.5, y * self.height - 0.5
        left, top = x.floor(), y.floor()
        self.x, self.y = x.sub_(left), y.sub_(top)  # from the top left corner, in cells
        inside, cells = [], []
        for row in (top, top + 1):
            for column in (left, left + 1):
                # also false for NaN: a diverged network is reported by its loss
                inside.append((row >= 0) & (row < self.height) & (column >= 0) & (column < self.width))
                cells.append(first + row * self.width + column)
        self._inside = torch.cat(inside, 1)
        self.cells = self.crop(torch.cat(cells, 1)).int()

    def crop(self, x: Tensor) -> Tensor:
        """[L, 4K] with zeros for corners outside the map."""
        return torch.where(self._inside, x, 0.0)

    def split(self, weights: Tensor) -> Tensor:
        """Weights [L, K] -> those of the corners [L, 4K]."""
        bottom = weights * self.y
        top = weights - bottom
        top_right, bottom_right = top * self.x, bottom * self.x
        return self.crop(torch.cat([top - top_right, top_right, bottom - bottom_right, bottom_right], 1))


@lru_cache(maxsize=32)
def _levels(sizes: tuple[int, ...], points: int) -> list[Tensor]:
    """Width, height and first cell of each sample's level, float32 [K] each."""
    height, width = torch.tensor(sizes).view(-1, 2).t()
    first = (height * width).cumsum(0) - height * width
    return [x.float().repeat_interleave(points) for x in (width, height, first)]
