"""Chamfer distances between lines given as sets of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist


@dataclass
class PixelSets:
    """The pixels of n lines, line after line, class after class."""

    labels: np.ndarray  # int64 [n] class indices, ascending
    ids: np.ndarray  # int64 [n] instance ids, ascending within a class
    starts: np.ndarray  # int64 [n] index of each line's first pixel in ``metres``
    metres: np.ndarray  # float64 [pixels, 2] (row, column)

    def __len__(self) -> int:
        return len(self.ids)

    def lines(self) -> list[np.ndarray]:
        """The points of each line, n times float64 [k, 2], metres."""
        ends = [*self.starts[1:].tolist(), len(self.metres)]
        return [self.metres[start:end] for start, end in zip(self.starts.tolist(), ends)]


def pixel_sets(mask: np.ndarray, resolution: float) -> PixelSets:
    """The lines of an id mask [C, rows, columns]; 0 is background.

    A pixel lies at float32(index) * float32(resolution), rounded to float32 as upstream does: this decides ties.
    """
    occupied = np.flatnonzero(mask != 0)  # fast on booleans only
    label, row, column = np.unravel_index(occupied, mask.shape)
    ids = mask.reshape(-1)[occupied].astype(np.int64)
    span = int(ids.max(initial=0)) + 1
    key = label * span + ids
    order = np.argsort(key, kind="stable")
    key = key[order]
    starts = np.flatnonzero(np.concatenate([key[:1] >= 0, key[1:] != key[:-1]]))
    labels, ids = np.divmod(key[starts], span)
    metres = np.stack([row, column], 1)[order].astype(np.float32) * np.float32(resolution)
    return PixelSets(labels, ids, starts, metres.astype(np.float64))


def chamfer_matrix(first: PixelSets, second: PixelSets, limit: float) -> np.ndarray:
    """Chamfer distances between all lines, float64 [n, m], metres.

    Infinite between lines of two classes; at ``limit`` or beyond, any value from ``limit`` on may stand for the
    distance. Rectangles around the lines tell most of these pairs.
    """
    distances = _rectangle_distances(first, second)
    distances[first.labels[:, None] != second.labels] = np.inf
    pairs = np.argwhere(distances < limit)
    if not len(pairs):
        return distances
    lines, others = first.lines(), second.lines()
    nearest = []  # squared distances of each point of a line to the other line: two arrays a pair
    for i, j in pairs.tolist():
        squared = cdist(lines[i], others[j], "sqeuclidean")
        nearest += [np.minimum.reduce(squared, 1), np.minimum.reduce(squared)]
    counts = np.array([len(part) for part in nearest])
    means = np.add.reduceat(np.sqrt(np.concatenate(nearest)), np.cumsum(counts) - counts) / counts
    distances[tuple(pairs.T)] = means.reshape(-1, 2).mean(1)
    return distances


def _rectangle_distances(first: PixelSets, second: PixelSets) -> np.ndarray:
    """Distances in metres between the rectangles around the lines, float64 [n, m]: no two lines are nearer."""
    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)))
    low, other_low = (np.minimum.reduceat(sets.metres, sets.starts) for sets in (first, second))  # [lines, 2] each
    high, other_high = (np.maximum.reduceat(sets.metres, sets.starts) for sets in (first, second))
    gaps = np.maximum(low[:, None] - other_high, other_low - high[:, None])  # [n, m, 2]
    return np.hypot(*np.moveaxis(np.maximum(gaps, 0), -1, 0))
