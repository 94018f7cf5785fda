"""Chamfer distances between lines given as sets of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

EXACT_SIDE = 1448  # pixels; squared distances on a smaller map are integers below 2**24, exact in float32
_WORD = np.dtype(np.uint64)


@dataclass
class PixelSets:
    """The pixels of n lines, line after line, class after class; within a line in row-major order."""

    classes: np.ndarray  # int64 [n] class indices, ascending
    ids: np.ndarray  # int64 [n] instance ids, ascending within a class
    starts: np.ndarray  # int64 [n] where each line begins
    counts: np.ndarray  # int64 [n] pixels of each line, at least 1
    pixels: np.ndarray  # [2, pixels] rows and columns; float32, or float64 for large maps
    resolution: np.float32  # metres a pixel

    def __len__(self) -> int:
        return len(self.ids)

    def line(self, index: int) -> slice:
        """Where a line's pixels lie in ``pixels``."""
        return slice(self.starts[index], self.starts[index] + self.counts[index])

    def metres(self, index: int) -> np.ndarray:
        """A line's points, float64 [k, 2] (row, column).

        A pixel lies at float32(index) * float32(resolution), rounded to float32 as upstream does: this decides ties.
        """
        return (self.pixels[:, self.line(index)].astype(np.float32) * self.resolution).T.astype(np.float64)


def pixel_sets(mask: np.ndarray, resolution: float) -> PixelSets:
    """The lines of an id mask [C, rows, columns]; 0 is background. One stable sort, instead of one scan an id."""
    _, rows, columns = mask.shape
    places = _occupied(mask.reshape(-1))
    values = mask.reshape(-1)[places].astype(np.int64)
    layer, place = np.divmod(places, rows * columns)
    span = int(values.max(initial=0)) + 1
    key = layer * span + values
    # numpy sorts numbers of 16 bits by their digits
    order = np.argsort(key.astype(np.uint16) if span * len(mask) <= 1 << 16 else key, kind="stable")
    key = key[order]
    starts = np.flatnonzero(np.concatenate([[len(key) > 0], key[1:] != key[:-1]]))
    classes, ids = np.divmod(key[starts], span)
    kind: type = np.float32 if max(rows, columns) < EXACT_SIDE else np.float64
    pixels: np.ndarray = np.empty((2, len(places)), kind)
    pixels[0], pixels[1] = np.divmod(place[order], columns)
    counts = np.concatenate([starts[1:], [len(places)]])[: len(starts)] - starts
    return PixelSets(classes, ids, starts, counts, pixels, np.float32(resolution))


def _occupied(values: np.ndarray) -> np.ndarray:
    """np.flatnonzero of a mask that is nearly empty: looks at eight bytes at once, then into those that are not 0."""
    each = _WORD.itemsize // values.itemsize
    whole = len(values) // each * each
    words = np.flatnonzero(values[:whole].view(_WORD) != 0)
    word, within = np.divmod(np.flatnonzero(values[:whole].reshape(-1, each)[words] != 0), each)
    rest = np.flatnonzero(values[whole:]) + whole
    return np.concatenate([words[word] * each + within, rest])


def chamfer_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Mean of the two directed means of nearest distances between point sets [n, 2] and [m, 2], in float64."""
    squared = cdist(first, second, "sqeuclidean")
    # The root grows with its argument, so it can wait until the minima are known.
    return float(sum(np.sqrt(squared.min(axis)).mean() for axis in (1, 0))) / 2


def chamfer_matrix(first: PixelSets, second: PixelSets, thresholds: Sequence[float]) -> np.ndarray:
    """Chamfer distances between all lines, float64 [n, m], as exact as comparing them asks for.

    Comparisons among them and with ``thresholds`` come out as with exact distances; the distances themselves may be
    off by the rounding of pixel coordinates (micrometres). Beyond the largest threshold any larger value may stand for
    the distance, and lines of two classes are infinitely far apart. The time goes like this: most pairs are told apart
    by the rectangles around the lines, the others by one matrix product of whole pixel numbers, and only near ties are
    computed from coordinates in float64.
    """
    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)))
    largest = max(first.pixels.max(), second.pixels.max()) * first.resolution
    # Rounding moves a coordinate by half a unit in the last place, so a difference by one, and a distance by sqrt(2).
    error = 1.5 * float(np.spacing(np.float32(largest)))
    resolution = float(first.resolution)
    distances = _rectangle_distances(first, second) * resolution
    distances[first.classes[:, None] != second.classes] = np.inf
    near = np.argwhere(distances < max(thresholds) + error)
    distances[tuple(near.T)] = _pixel_distances(first, second, near) * resolution
    for i, j in near[_close(distances[tuple(near.T)], thresholds, 2 * error)].tolist():
        distances[i, j] = chamfer_distance(first.metres(i), second.metres(j))
    return distances


def _pixel_distances(first: PixelSets, second: PixelSets, pairs: np.ndarray) -> np.ndarray:
    """Chamfer distances in pixels of the pairs int [k, 2] of lines, float64 [k]."""
    # |a - b|**2 = a.a - 2 a.b + b.b, as one product [pixels, 4] x [4, pixels]
    left = np.empty((first.pixels.shape[1], 4), first.pixels.dtype)
    left[:, :2] = first.pixels.T
    left[:, 2] = (first.pixels * first.pixels).sum(0)
    left[:, 3] = 1
    right = np.empty((4, second.pixels.shape[1]), left.dtype)
    np.multiply(second.pixels, -2, out=right[:2])
    right[2] = 1
    right[3] = (second.pixels * second.pixels).sum(0)
    counts = np.stack([first.counts[pairs[:, 0]], second.counts[pairs[:, 1]]], 1).reshape(-1)  # [2 k]
    ends = np.cumsum(counts)
    nearest = np.empty(counts.sum(), left.dtype)  # of a pair's first line, then of its second, then of the next pair
    places = [slice(end - count, end) for count, end in zip(counts.tolist(), ends.tolist())]
    lines, others = ([sets.line(index) for index in range(len(sets))] for sets in (first, second))
    for (i, j), there, back in zip(pairs.tolist(), places[::2], places[1::2]):
        squared = left[lines[i]] @ right[:, others[j]]
        np.minimum.reduce(squared, 1, None, nearest[there])
        np.minimum.reduce(squared, 0, None, nearest[back])
    # The root grows with its argument, so it can wait until the minima are known.
    means = np.add.reduceat(np.sqrt(nearest, dtype=np.float64), ends - counts) / counts if len(pairs) else counts
    return means.reshape(-1, 2).sum(1) / 2


def _close(values: np.ndarray, marks: Sequence[float], gap: float) -> np.ndarray:
    """Which of ``values`` lie within ``gap`` of another one or of a mark, bool [k]."""
    joined = np.concatenate([values, marks])
    order = np.argsort(joined)
    tight = np.diff(joined[order]) <= gap
    close = np.zeros(len(joined), bool)
    close[order[:-1]] |= tight
    close[order[1:]] |= tight
    return close[: len(values)]


def _rectangle_distances(first: PixelSets, second: PixelSets) -> np.ndarray:
    """Distances in pixels between the rectangles around the lines, float64 [n, m]: no two lines are nearer."""
    low, high = (
        [bound.reduceat(sets.pixels, sets.starts, axis=1) for sets in (first, second)]
        for bound in (np.minimum, np.maximum)
    )  # [2, lines] each
    gaps = np.maximum(low[0][:, :, None] - high[1][:, None], low[1][:, None] - high[0][:, :, None])  # [2, n, m]
    return np.hypot(*np.maximum(gaps, 0).astype(np.float64))
