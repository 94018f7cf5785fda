"""Chamfer distances between lines given as sets of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist

_MOST_DISTANCES = 2**22  # in memory at once; a hundred times as many as usual lines have between them


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
    distance. Lower bounds show this for most of these pairs.
    """
    distances = (_bounds(first, second) + _bounds(second, first).T) / 2
    distances[first.labels[:, None] != second.labels] = np.inf
    pairs = np.argwhere(distances < limit * (1 + 1e-9))  # a bound is rounded, too
    if not len(pairs):
        return distances
    lines, others = first.lines(), second.lines()
    nearest: list[np.ndarray] = []  # squared distances of each point of a line to the other line: two arrays a pair
    for i, j in pairs.tolist():
        nearest += _nearest(lines[i], others[j])
    counts = np.array([len(part) for part in nearest])
    means = np.add.reduceat(np.sqrt(np.concatenate(nearest)), np.cumsum(counts) - counts) / counts
    distances[tuple(pairs.T)] = means.reshape(-1, 2).mean(1)
    return distances


def _nearest(line: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared distance of each point to the other line, float64 [n] and [m]."""
    if len(line) * len(other) > _MOST_DISTANCES:
        return KDTree(other).query(line)[0] ** 2, KDTree(line).query(other)[0] ** 2
    squared = cdist(line, other, "sqeuclidean")
    return np.minimum.reduce(squared, 1), np.minimum.reduce(squared)


def _bounds(first: PixelSets, second: PixelSets) -> np.ndarray:
    """Lower bounds of the directed chamfer distances, float64 [n, m], metres.

    The mean distance of points to a line is at least that to the rectangle around it, and since distance to a rectangle
    is convex, at least the distance of their mean to it.
    """
    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)))
    counts = np.diff(first.starts, append=len(first.metres))
    means = (np.add.reduceat(first.metres, first.starts) / counts[:, None])[:, None]  # [n, 1, 2]
    low, high = (bound.reduceat(second.metres, second.starts) for bound in (np.minimum, np.maximum))  # [m, 2]
    gaps = np.maximum(np.maximum(low - means, means - high), 0)  # [n, m, 2]
    return np.hypot(gaps[..., 0], gaps[..., 1])
