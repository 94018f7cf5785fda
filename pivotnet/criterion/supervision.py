"""Matches -> labels, targets and weights of all predictions, as dense arrays on the host. Every predicted point of a
matched query has a target: its pivot, or, between two pivots, the point that divides the target's segment as evenly as
the predicted points between them do. So no loss has to gather points: it is a weighted sum over all predictions, and
everything that upstream divides by is part of the weights, except for the number of instances, which only the device
knows (it is reduced over the ranks)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from pivotnet.config import Config
from pivotnet.criterion.matching import ClassMatches
from pivotnet.structures import Targets

Array = TypeVar("Array")  # np.ndarray on the host, torch.Tensor on the device


@dataclass
class Supervision(Generic[Array]):
    """Points and weights are float32, labels and indices int64. A weight is 0 where there is nothing to learn."""

    points: Array  # [D, B, T, 2] target of each predicted point
    point_weights: Array  # [2, D, B, T] of the distance of pivots; of points between pivots
    point_labels: Array  # [D, B, T] 1 for a pivot, 0 for a point between pivots
    point_label_weights: Array  # [D, B, T]
    object_labels: Array  # [D, B, Q] 0 for a matched query, 1 for any other
    object_weights: Array  # [D, B, Q]
    semantic_weights: Array  # [E, B, C] of the semantic masks
    # the K matched pairs of masks
    predicted_masks: Array  # [K] indices into [D, B, Q], flattened
    target_masks: Array  # [K] indices into [B, C, G], flattened
    pair_labels: Array  # [K]
    pair_weights: Array  # [K]


def supervise(matches: Sequence[ClassMatches], targets: Targets, config: Config) -> Supervision[np.ndarray]:
    """Turn the matches of each class, and the targets in host memory, into supervision. Every sample's reductions are
    those that upstream makes for its one; samples then count 1 / B each."""
    criterion, sizes = config.criterion, config.map
    batch, classes = targets.counts.shape
    decoders, bev_decoders = len(criterion.decoder_weights), len(criterion.bev_weights)
    decoder_weights = np.array(criterion.decoder_weights) / (decoders * classes * batch)
    semantic_weights = np.array(criterion.bev_weights, np.float32) * criterion.weight_semantic
    semantic_weights = semantic_weights / (bev_decoders * classes * batch)
    decoder = np.concatenate([matched.decoder for matched in matches])
    sample = np.concatenate([matched.sample for matched in matches])
    query = np.concatenate([own.start + matched.query for own, matched in zip(sizes.query_slices, matches)])
    instance = np.concatenate([matched.instance for matched in matches])
    labels = np.repeat(np.arange(classes), [len(matched.query) for matched in matches])
    points, queries = (decoders, batch, sizes.total_points), (decoders, batch, sizes.total_queries)
    supervision = Supervision(
        points=np.zeros((*points, 2), np.float32),
        point_weights=np.zeros((2, *points), np.float32),
        point_labels=np.zeros(points, np.int64),
        point_label_weights=np.zeros(points, np.float32),
        object_labels=np.ones(queries, np.int64),
        object_weights=np.zeros(queries, np.float32),
        semantic_weights=np.tile(semantic_weights[:, None, None], (1, batch, classes)),
        predicted_masks=np.ravel_multi_index((decoder, sample, query), queries),
        target_masks=np.ravel_multi_index((sample, labels, instance), targets.lengths.shape),
        pair_labels=labels,
        pair_weights=np.float32(decoder_weights[decoder] * criterion.weight_mask),
    )
    supervision.object_labels[decoder, sample, query] = 0
    for label in range(classes):
        _supervise_class(supervision, matches[label], targets, config, label, decoder_weights)
    return supervision


def _supervise_class(
    supervision: Supervision[np.ndarray],
    matched: ClassMatches,
    targets: Targets,
    config: Config,
    label: int,
    decoder_weights: np.ndarray,  # [D]
) -> None:
    criterion, size = config.criterion, config.map.max_points[label]
    own = config.map.query_slices[label]
    weights = np.where(supervision.object_labels[:, :, own] == 0, 1, criterion.no_object_weight)
    weights = weights / weights.sum(-1, keepdims=True) * decoder_weights[:, None, None]
    supervision.object_weights[:, :, own] = weights * criterion.weight_object

    d, b, lengths = matched.decoder, matched.sample, matched.lengths[:, None]
    lines = targets.points.numpy()[b, label, matched.instance].astype(np.float64)
    is_pivot, segment, points = _follow(matched.path, lengths, lines, size)  # [K, P]
    is_end = is_pivot * ((segment == 0) * 1.0 + (segment == lengths - 1))
    pivot_weights = (is_pivot + criterion.end_point_weight * is_end) / (lengths + 2 * criterion.end_point_weight)
    between_weights = ~is_pivot / np.maximum(size - lengths, 1)
    label_weights = np.where(is_pivot, 1, criterion.collinear_weight)
    sums = np.zeros(supervision.object_labels.shape[:2])
    np.add.at(sums, (d, b), label_weights.sum(1))
    label_weights = label_weights / sums[d, b][:, None]

    weights = decoder_weights[d, None]
    first = config.map.point_slices[label].start + matched.query[:, None] * size
    indices = (d[:, None], b[:, None], first + np.arange(size))  # [K, P]
    supervision.points[indices] = points
    supervision.point_labels[indices] = is_pivot
    supervision.point_weights[(0, *indices)] = pivot_weights * weights * criterion.weight_points
    supervision.point_weights[(1, *indices)] = between_weights * weights * criterion.weight_collinear
    supervision.point_label_weights[indices] = label_weights * weights * criterion.weight_point_logits


def _follow(
    path: np.ndarray, lengths: np.ndarray, lines: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the predicted points of matched queries belong on their target lines ``lines``, float64 [K, >= n, 2].
    ``path``, int [K, n], is the predicted point of each target point; ``lengths`` int [K, 1]; ``size`` is P. Returns
    whether a predicted point stands for a target point, bool [K, P]; the target point at or before it, int [K, P];
    where it should lie, float64 [K, P, 2]."""
    pair = np.arange(len(path))[:, None]
    is_pivot = np.zeros((len(path), size), bool)
    is_pivot[pair, path] = True  # after a line's last point, path repeats that point
    segment = np.cumsum(is_pivot, 1) - 1
    following = np.minimum(segment + 1, lengths - 1)
    start, end = path[pair, segment], path[pair, following]
    fraction = ((np.arange(size) - start) / np.maximum(end - start, 1))[..., None]
    return is_pivot, segment, (1 - fraction) * lines[pair, segment] + fraction * lines[pair, following]
