"""Matches -> what every prediction is to become, and with which weight, as dense arrays on the host.

Every predicted point of a matched query has a target: its pivot, or, between two pivots, the point that divides the
target's segment as evenly as the predicted points between them are many. So no loss needs to gather points: it is
a weighted sum over all predictions, and everything that upstream divides by is part of the weights, except for the
number of instances, which only the device knows (it is reduced over the ranks).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from pivotnet.config import CLASSES, Config
from pivotnet.criterion.matching import ClassMatches
from pivotnet.structures import Targets

Array = TypeVar("Array")  # np.ndarray on the host, torch.Tensor on the device


@dataclass
class Supervision(Generic[Array]):
    """Targets and weights, float32; weights are 0 where there is nothing to learn."""

    points: Array  # [D, B, T, 2] target of each predicted point
    point_weights: Array  # [2, D, B, T] of the pivots; of the points between them
    point_sides: Array  # [D, B, T] -1 for a pivot, +1 for a point between pivots
    point_logit_weights: Array  # [D, B, T]
    object_sides: Array  # [D, B, Q] -1 for a matched query, +1 for any other
    object_weights: Array  # [D, B, Q]
    pair_weights: Array  # [C + 1, K] of the mask losses, for the terms of the classes' instances and the semantic term
    pair_places: Array  # [3, K] whole numbers: see pivotnet.criterion.masks.pair_losses


def supervise(matches: Sequence[ClassMatches], targets: Targets, config: Config) -> Supervision[np.ndarray]:
    """Turn the matches of all classes into supervision.

    Every sample's reductions are those that upstream makes for its one; samples then count 1 / B each.

    Args:
        matches: one of each class.
        targets: in host memory.
        config: the preset.
    """
    criterion = config.criterion
    batch, _, most = targets.lengths.shape
    decoders = len(criterion.decoder_weights)
    head = (decoders, batch)
    queries, total_points = config.map.total_queries, config.map.total_points
    decoder_weights = np.asarray(criterion.decoder_weights) / (decoders * len(CLASSES) * batch)
    pair_weights, pair_places = _mask_pairs(matches, decoder_weights, batch, most, config)
    dense = Supervision(
        points=np.zeros((*head, total_points, 2), np.float32),
        point_weights=np.zeros((2, *head, total_points), np.float32),
        point_sides=np.ones((*head, total_points), np.float32),
        point_logit_weights=np.zeros((*head, total_points), np.float32),
        object_sides=np.ones((*head, queries), np.float32),
        object_weights=np.zeros((*head, queries), np.float32),
        pair_weights=pair_weights,
        pair_places=pair_places,
    )
    target_points = targets.points.numpy()
    first_query = first_point = 0
    for c, (own, size) in enumerate(zip(config.map.num_queries, config.map.max_points)):
        found = matches[c]
        d, b, lengths = found.decoder, found.sample, found.lengths[:, None]
        weight = decoder_weights[d]  # [K]

        dense.object_sides[d, b, first_query + found.query] = -1
        here = slice(first_query, first_query + own)
        balance = np.where(dense.object_sides[:, :, here] < 0, 1, criterion.no_object_weight)
        balance = balance / balance.sum(-1, keepdims=True) * decoder_weights[:, None, None]
        dense.object_weights[:, :, here] = balance * criterion.weight_object

        lines = target_points[b, c, found.instance].astype(np.float64)
        pivot, segment, goal = _follow(found.path, lengths, lines, size)
        ends = criterion.end_point_weight * ((segment == 0) * 1.0 + (segment == lengths - 1))
        pivot_weight = pivot * (1 + ends) / (lengths + 2 * criterion.end_point_weight)
        between_weight = ~pivot / np.maximum(size - lengths, 1)
        logit_weight = np.where(pivot, 1, criterion.collinear_weight)
        sums = np.zeros(head)
        np.add.at(sums, (d, b), logit_weight.sum(1))
        logit_weight = logit_weight / sums[d, b][:, None]

        weight = weight[:, None]
        point = (d[:, None], b[:, None], first_point + found.query[:, None] * size + np.arange(size))  # [K, P]
        dense.points[point] = goal
        dense.point_sides[point] = np.where(pivot, -1, 1)
        dense.point_weights[(0, *point)] = pivot_weight * weight * criterion.weight_points
        dense.point_weights[(1, *point)] = between_weight * weight * criterion.weight_collinear
        dense.point_logit_weights[point] = logit_weight * weight * criterion.weight_point_logits
        first_query += own
        first_point += own * size
    return dense


def _mask_pairs(
    matches: Sequence[ClassMatches], decoder_weights: np.ndarray, batch: int, most: int, config: Config
) -> tuple[np.ndarray, np.ndarray]:
    """``pair_weights`` and ``pair_places``: the matched queries class by class, then all semantic masks."""
    criterion, num_queries, classes = config.criterion, config.map.num_queries, len(CLASSES)
    decoders, bev_decoders = len(criterion.decoder_weights), len(criterion.bev_weights)
    queries, columns = config.map.total_queries, most + 1
    height = decoders * queries + bev_decoders * classes  # R
    bev_weights = np.asarray(criterion.bev_weights) * criterion.weight_semantic / (bev_decoders * classes * batch)
    e, sample = (index.ravel() for index in np.indices((bev_decoders, batch)))
    weights, places = [], []
    semantic_weights, semantic_places = [], []
    first_query = first_row = 0
    for c, (own, found) in enumerate(zip(num_queries, matches)):
        d, b = found.decoder, found.sample
        row = b * height + first_row + d * own + found.query
        prediction = (d * batch + b) * queries + first_query + found.query
        places.append([prediction, row * columns + found.instance, (b * classes + c) * columns + found.instance])
        weights.append(np.zeros((classes + 1, len(d))))
        weights[-1][c] = decoder_weights[d] * criterion.weight_mask

        row = sample * height + first_row + decoders * own + e
        prediction = decoders * batch * queries + (e * batch + sample) * classes + c
        semantic_places.append([prediction, row * columns + most, (sample * classes + c) * columns + most])
        semantic_weights.append(np.zeros((classes + 1, len(e))))
        semantic_weights[-1][-1] = bev_weights[e]
        first_query += own
        first_row += decoders * own + bev_decoders
    joined = (np.concatenate(part, axis=1) for part in (weights + semantic_weights, places + semantic_places))
    pair_weights, pair_places = (array.astype(np.float32) for array in joined)
    return pair_weights, pair_places


def _follow(
    path: np.ndarray, lengths: np.ndarray, lines: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the predicted points of matched queries belong on their target lines.

    Args:
        path: int [K, n], predicted point of each target point.
        lengths: int [K, 1].
        lines: float64 [K, >= n, 2].
        size: P.

    Returns:
        pivot bool [K, P]: stands for a target point; segment int [K, P]: the target point at or before it;
        goal float64 [K, P, 2]: where it should lie.
    """
    pair = np.arange(len(path))[:, None]
    pivot = np.zeros((len(path), size), bool)
    pivot[pair, path] = True  # behind a line's last point, path repeats that point
    segment = np.cumsum(pivot, 1) - 1
    following = np.minimum(segment + 1, lengths - 1)
    start, end = path[pair, segment], path[pair, following]
    share = ((np.arange(size) - start) / np.maximum(end - start, 1))[..., None]
    return pivot, segment, (1 - share) * lines[pair, segment] + share * lines[pair, following]
