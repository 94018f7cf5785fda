"""Chamfer distances between lines given as sets of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

EXACT_SIDE = 1448  # pixels; squared distances on a smaller map are integers below 2**24, exact in float32


@dataclass
class PixelSets:
    """The pixels of n lines, line after line; within a line in row-major order."""

    ids: np.ndarray  # [n] instance ids, ascending
    starts: np.ndarray  # int64 [n] where each line begins
    counts: np.ndarray  # int64 [n] pixels of each line, at least 1
    metres: np.ndarray  # float64 [pixels, 2] (row, column)
    pixels: np.ndarray  # float32 [pixels, 4]: row, column, row**2 + column**2, 1
    resolution: float  # metres a pixel, as rounded to float32

    def __len__(self) -> int:
        return len(self.ids)

    def line(self, index: int) -> slice:
        """Where a line's pixels lie in ``metres`` and ``pixels``."""
        return slice(self.starts[index], self.starts[index] + self.counts[index])


def pixel_sets(mask: np.ndarray, resolution: float) -> PixelSets:
    """The lines of an id mask [rows, columns]; 0 is background. One stable sort, instead of one scan an id.

    A pixel lies at float32(index) * float32(resolution) metres, rounded to float32 as upstream does: this decides ties.
    """
    places = np.flatnonzero(mask != 0)
    values = mask.reshape(-1)[places]
    order = np.argsort(values, kind="stable")
    ids, starts, counts = np.unique(values[order], return_index=True, return_counts=True)
    rounded = np.float32(resolution)
    kind: type = np.float32 if max(mask.shape) < EXACT_SIDE else np.float64
    pixels: np.ndarray = np.ones((len(places), 4), kind)
    pixels[:, 0], pixels[:, 1] = np.divmod(places[order], mask.shape[1])
    pixels[:, 2] = (pixels[:, :2] ** 2).sum(1)
    metres = (pixels[:, :2].astype(np.float32) * rounded).astype(np.float64)
    return PixelSets(ids, starts, counts, metres, pixels, float(rounded))


def chamfer_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Mean of the two directed means of nearest distances between point sets [n, 2] and [m, 2], in float64."""
    return _mean_of_nearest(cdist(first, second, "sqeuclidean"))


def _mean_of_nearest(squared: np.ndarray) -> float:
    """Chamfer distance from all squared distances [n, m]. The root grows with its argument, so it can wait until the
    minima are known."""
    nearest = (np.sqrt(squared.min(axis), dtype=np.float64).mean() for axis in (1, 0))
    return float(sum(nearest)) / 2


def chamfer_matrix(first: PixelSets, second: PixelSets, thresholds: Sequence[float]) -> np.ndarray:
    """Chamfer distances between all lines, float64 [n, m], as exact as comparing them asks for.

    Comparisons among them and with ``thresholds`` come out as with exact distances; the distances themselves may be
    off by the rounding of pixel coordinates (micrometres). Beyond the largest threshold any larger value may stand for
    the distance. The time goes like this: most pairs are told apart by the rectangles around the lines, the others by
    one matrix product of whole pixel numbers, and only near ties are computed from coordinates in float64.
    """
    limit = max(thresholds)
    distances = (_box_distances(first, second) + _box_distances(second, first).T) / 2
    near = np.argwhere(distances < limit)
    # |a - b|**2 = a.a - 2 a.b + b.b, as one product [pixels, 4] x [4, pixels]
    other = np.ascontiguousarray((second.pixels[:, [0, 1, 3, 2]] * np.array([-2, -2, 1, 1], second.pixels.dtype)).T)
    for i, j in near:
        squared = first.pixels[first.line(i)] @ other[:, second.line(j)]
        distances[i, j] = _mean_of_nearest(squared) * first.resolution
    # Rounding moves a coordinate by half a unit in the last place, so a difference by one, and a distance by sqrt(2).
    error = 1.5 * np.spacing(np.float32(max(first.metres.max(), second.metres.max())))
    for i, j in near[_close(distances[tuple(near.T)], thresholds, 2 * error)]:
        distances[i, j] = chamfer_distance(first.metres[first.line(i)], second.metres[second.line(j)])
    return distances


def _close(values: np.ndarray, marks: Sequence[float], gap: float) -> np.ndarray:
    """Which of ``values`` lie within ``gap`` of another one or of a mark, bool [k]."""
    joined = np.concatenate([values, marks])
    order = np.argsort(joined)
    tight = np.diff(joined[order]) <= gap
    close = np.zeros(len(joined), bool)
    close[order[:-1]] |= tight
    close[order[1:]] |= tight
    return close[: len(values)]


def _box_distances(lines: PixelSets, boxed: PixelSets) -> np.ndarray:
    """Mean distance of each line's pixels to the rectangle around each line of ``boxed``, [len(lines), len(boxed)].

    No line is nearer than the rectangle around it.
    """
    low = np.minimum.reduceat(boxed.metres, boxed.starts).T[:, :, None]  # [2, m, 1]
    high = np.maximum.reduceat(boxed.metres, boxed.starts).T[:, :, None]
    places = np.ascontiguousarray(lines.metres.T)[:, None]  # [2, 1, pixels]
    gaps = np.maximum(low - places, places - high)
    np.maximum(gaps, 0, out=gaps)
    distances = np.sqrt((gaps * gaps).sum(0))  # [m, pixels]
    return np.add.reduceat(distances, lines.starts, axis=1).T / lines.counts[:, None]
