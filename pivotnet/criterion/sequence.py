"""Sequence matching and pivot dynamic matching (PivotNet, section 3.3), for many pairs of lines at once, in numpy. Both
solve the same problem: a target line of n points and a predicted line of P >= n points are given; every target point
gets a predicted point of its own, in order (strictly increasing), the first one the first and the last one the last, so
that the summed distance is smallest. The dynamic programme runs over the target points, and each of its steps is one
array expression over all predicted points and all pairs. The pairs are the last axis, so that every expression runs
over contiguous memory. Letters in shapes: n target points (of the longest target), P predicted points, K pairs."""

from collections.abc import Iterator

import numpy as np


def distances(targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """L1 distances float32 [n, P, ...] of all target points, float32 [n, 2, ...], to all predicted points, float32 [P,
    2, ...], computed in float32 as upstream computes them. The axes after the second are those of the pairs; they
    broadcast."""
    rows, columns = (np.abs(targets[:, None, i] - predictions[None, :, i]) for i in range(2))
    return rows + columns


def _reached(cost: np.ndarray) -> Iterator[np.ndarray]:
    """For the target points i = 1, 2, ...: float64 [P - i, K], the smallest sum of the first i + 1 distances where
    target point i is at predicted point i, i + 1, ..."""
    best = np.broadcast_to(cost[0, 0].astype(np.float64), cost.shape[1:])
    for i in range(1, len(cost)):
        reached = best[:-1] + cost[i, i:]
        yield reached
        best = np.minimum.accumulate(reached, axis=0)


def sequence_costs(cost: np.ndarray, lengths: np.ndarray, end_weight: float) -> np.ndarray:
    """How well each predicted line can follow its target line, float64 [K]: the summed distance of the cheapest
    assignment, plus ``end_weight`` times the distances of the two ends, divided by (length + 2 end_weight). ``cost``,
    float [n, P, K], are distances, summed in float64; ``lengths``, int [K], points of each target line, 2 <= length <=
    min(n, P)."""
    pair, last = np.arange(cost.shape[2]), lengths - 1
    sums = np.stack([reached[-1] for reached in _reached(cost)])  # [n - 1, K] of lines that end with target i
    ends = cost[0, 0].astype(np.float64) + cost[last, -1, pair]
    return (sums[last - 1, pair] + ends * end_weight) / (lengths + 2 * end_weight)


def match_points(cost: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest assignment itself, for ``cost`` and ``lengths`` as above: its sums float64 [K], and which predicted
    point stands for each target point, int64 [K, n], strictly increasing over a line's own points from 0 to P - 1, and
    P - 1 after them. Of several cheapest assignments, each target point takes the earliest predicted point, counted
    from the line's end backwards, as upstream's does."""
    points, predicted, pairs = cost.shape
    sums = list(_reached(cost))
    indices = np.full((points, pairs), predicted - 1)
    for i in range(points - 2, 0, -1):
        before = np.arange(i, predicted)[:, None] < indices[i + 1]  # [P - i, K]
        earliest = i + np.where(before, sums[i - 1], np.inf).argmin(0)
        indices[i] = np.where(i < lengths - 1, earliest, predicted - 1)
    indices[0] = 0
    ends = np.stack([reached[-1] for reached in sums])
    return ends[lengths - 2, np.arange(pairs)], indices.T
