"""Chamfer distances between lines given as sets of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist


@dataclass
class PixelSets:
    """The pixels of n lines, line after line; within a line in row-major order."""

    ids: np.ndarray  # [n] instance ids, ascending
    starts: np.ndarray  # int64 [n] where each line begins
    counts: np.ndarray  # int64 [n] pixels of each line, at least 1
    coordinates: np.ndarray  # float64 [pixels, 2] (row, column), metres

    def __len__(self) -> int:
        return len(self.ids)

    def line(self, index: int) -> np.ndarray:
        """Pixels of one line, float64 [p, 2], metres."""
        start = self.starts[index]
        return self.coordinates[start : start + self.counts[index]]


def pixel_sets(mask: np.ndarray, resolution: float) -> PixelSets:
    """The lines of an id mask [rows, columns]; 0 is background. One stable sort, instead of one scan an id.

    A pixel lies at float32(index) * float32(resolution) metres, rounded to float32 as upstream does: this decides ties.
    """
    columns = mask.shape[1]
    pixels = np.flatnonzero(mask != 0)
    values = mask.reshape(-1)[pixels]
    order = np.argsort(values, kind="stable")
    ids, starts, counts = np.unique(values[order], return_index=True, return_counts=True)
    indices = np.stack(np.divmod(pixels[order], columns), axis=-1)
    metres = indices.astype(np.float32) * np.float32(resolution)
    return PixelSets(ids, starts, counts, metres.astype(np.float64))


def chamfer_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Mean of the two directed means of nearest distances between point sets [n, 2] and [m, 2], in float64."""
    squared = cdist(first, second, "sqeuclidean")  # [n, m]
    # The root grows with its argument, so it can wait until the minima are known.
    return float(np.sqrt(squared.min(1)).mean() + np.sqrt(squared.min(0)).mean()) / 2


def chamfer_matrix(first: PixelSets, second: PixelSets, limit: float) -> np.ndarray:
    """Chamfer distances between all lines, float64 [n, m]; where the distance is ``limit`` or more it may be any value
    from ``limit`` up to it.

    A line cannot be nearer to another than to the rectangle around it, so most pairs need no distances of pixels.
    """
    distances = (_box_distances(first, second) + _box_distances(second, first).T) / 2
    for i, j in zip(*np.nonzero(distances < limit)):
        distances[i, j] = chamfer_distance(first.line(i), second.line(j))
    return distances


def _box_distances(lines: PixelSets, boxed: PixelSets) -> np.ndarray:
    """Mean distance of each line's pixels to the rectangle around each line of ``boxed``, [len(lines), len(boxed)]."""
    low = np.minimum.reduceat(boxed.coordinates, boxed.starts).T[:, :, None]  # [2, m, 1]
    high = np.maximum.reduceat(boxed.coordinates, boxed.starts).T[:, :, None]
    pixels = np.ascontiguousarray(lines.coordinates.T)[:, None]  # [2, 1, pixels]
    gaps = np.maximum(low - pixels, pixels - high)
    np.maximum(gaps, 0, out=gaps)
    distances = np.sqrt((gaps * gaps).sum(0))  # [m, pixels]
    return np.add.reduceat(distances, lines.starts, axis=1).T / lines.counts[:, None]
