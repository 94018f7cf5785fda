"""Sequence matching and pivot dynamic matching (PivotNet, section 3.3), for many pairs of lines at once, in numpy.

Both solve the same problem: a target line of n points and a predicted line of P >= n points are given; every target
point gets a predicted point of its own, in order (strictly increasing), the first one the first and the last one the
last, so that the summed distance is smallest. The dynamic programme runs over the target points, and each of its steps
is one array expression over all predicted points and all pairs. The pairs are the last axis, so that every expression
runs over contiguous memory.

Letters in shapes: n target points (of the longest target), P predicted points, K pairs.
"""

from __future__ import annotations

import numpy as np


def distances(targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """L1 distances of all target points to all predicted points.

    Args:
        targets: float32 [n, 2, ...], the points of target lines.
        predictions: float32 [P, 2, ...]; the axes behind the second are those of the pairs, and both broadcast.

    Returns:
        float32 [n, P, ...], computed in float32 as upstream computes them.
    """
    rows, columns = (np.abs(targets[:, None, i] - predictions[None, :, i]) for i in range(2))
    return rows + columns


def sequence_costs(cost: np.ndarray, lengths: np.ndarray, end_weight: float) -> np.ndarray:
    """How well each predicted line can follow its target line.

    The summed distance of the cheapest assignment, plus ``end_weight`` times the distances of the two ends, divided by
    (length + 2 end_weight).

    Args:
        cost: float [n, P, K] distances; sums are taken in float64.
        lengths: int [K], points of each target line, 2 <= length <= min(n, P).
        end_weight: extra weight of the first and the last point.

    Returns:
        float64 [K].
    """
    points, _, pairs = cost.shape
    pair = np.arange(pairs)
    sums = np.full((points, pairs), np.inf)  # [n, K] assignments that end with (target i, last prediction)
    best = np.broadcast_to(cost[0, 0].astype(np.float64), cost.shape[1:])
    for i in range(1, points):
        reached = best[:-1] + cost[i, i:]  # [P - i, K] target i on prediction i, i + 1, ...
        sums[i] = reached[-1]
        best = np.minimum.accumulate(reached, axis=0)
    last = lengths - 1
    ends = cost[0, 0].astype(np.float64) + cost[last, -1, pair]
    return (sums[last, pair] + ends * end_weight) / (lengths + 2 * end_weight)


def match_points(cost: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest assignment itself: which predicted point stands for each target point.

    Of several cheapest assignments, each target point takes the earliest predicted point, counted from the line's end
    backwards, as upstream's does.

    Args:
        cost: float [n, P, K] distances; sums are taken in float64.
        lengths: int [K], points of each target line, 2 <= length <= min(n, P).

    Returns:
        sums float64 [K] of the assignments, and indices int64 [K, n] of predicted points, strictly increasing over a
        line's own points from 0 to P - 1, and P - 1 behind them.
    """
    points, predicted, pairs = cost.shape
    pair = np.arange(pairs)
    sums = np.full((points, pairs), np.inf)
    choice = np.zeros((points, predicted, pairs), np.int64)  # earliest best prediction for target i among the first j
    best = np.broadcast_to(cost[0, 0].astype(np.float64), cost.shape[1:])
    for i in range(1, points):
        reached = best[:-1] + cost[i, i:]
        sums[i] = reached[-1]
        best = np.minimum.accumulate(reached, axis=0)
        choice[i, :i] = choice[i, i] = i
        better = reached[1:] < best[:-1]
        choice[i, i + 1 :] = np.where(better, np.arange(i + 1, predicted)[:, None], i)
        np.maximum.accumulate(choice[i], axis=0, out=choice[i])

    indices = np.empty((points, pairs), np.int64)
    following = np.full(pairs, predicted - 1)
    for i in range(points - 1, -1, -1):
        following = np.where(i < lengths - 1, choice[i, following - 1, pair], predicted - 1)
        indices[i] = following
    return sums[lengths - 1, pair], indices.T
