"""Which query stands for which target instance: costs on the device, assignment on the host.

Upstream's HungarianMatcher for all decoders, samples and classes at once.

Letters in shapes: see pivotnet.structures; Qc and P are queries and points of one class, K matched pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pivotnet.config import CriterionConfig, MapConfig
from pivotnet.criterion.sequence import distances, match_points, sequence_costs
from pivotnet.structures import Targets

# Stands for costs that are not finite. The assignment must not fail on them: the loss itself is not finite then, and
# that is how training learns of it.
_WORST_COST = 1e9


@dataclass
class ClassMatches:
    """The matched pairs of one class; all decoders and samples in one list."""

    decoder: np.ndarray  # int [K]
    sample: np.ndarray  # int [K]
    instance: np.ndarray  # int [K] target instance of the sample and class
    query: np.ndarray  # int [K] query of the class
    path: np.ndarray  # int [K, n] predicted point of each target point, P - 1 behind the target's last point
    lengths: np.ndarray  # int [K] points of the target


@torch.no_grad()
def device_costs(object_logits: Tensor, mask_losses: Tensor, config: CriterionConfig) -> Tensor:
    """The costs that the device knows, [D, B, Q, G]: object probability and masks.

    Args:
        object_logits: [D, B, Q, 2].
        mask_losses: float32 [D, B, Q, G], of every query with every instance.
        config: the weights.
    """
    logits = object_logits.float()
    probability = (logits[..., 0] - logits[..., 1]).sigmoid()[..., None]
    return config.cost_mask * mask_losses - config.cost_object * probability


def match(
    costs: np.ndarray, points: np.ndarray, targets: Targets, criterion: CriterionConfig, map_config: MapConfig
) -> list[ClassMatches]:
    """Assign queries to instances, and predicted to target points.

    Args:
        costs: float32 [D, B, Q, G] of object and mask.
        points: float32 [D, B, T, 2] predicted.
        targets: in host memory.

    Returns:
        The matches of each class. Where a sample has more instances than the class has queries, some stay without one.
    """
    target_points, lengths, counts = (t.numpy() for t in (targets.points, targets.lengths, targets.counts))
    matches = []
    first_query = first_point = 0
    for c, (queries, size) in enumerate(zip(map_config.num_queries, map_config.max_points)):
        own_costs = costs[:, :, first_query : first_query + queries]
        own_points = points[:, :, first_point : first_point + queries * size]
        own_points = own_points.reshape(*points.shape[:2], queries, size, 2)
        sample, instance = np.nonzero(np.arange(lengths.shape[2]) < counts[:, c, None])
        own_targets = target_points[sample, c, instance, :size]  # [N, P, 2] of all samples
        matches.append(
            _match_class(own_costs, own_points, own_targets, lengths[sample, c, instance], sample, instance, criterion)
        )
        first_query += queries
        first_point += queries * size
    return matches


def _match_class(
    costs: np.ndarray,  # [D, B, Qc, G]
    points: np.ndarray,  # [D, B, Qc, P, 2]
    targets: np.ndarray,  # [N, P, 2]
    lengths: np.ndarray,  # [N]
    sample: np.ndarray,  # [N]
    instance: np.ndarray,  # [N]
    config: CriterionConfig,
) -> ClassMatches:
    decoders, samples, _, size = points.shape[:4]
    longest = int(lengths.max(initial=2))
    target_first = targets[:, :longest].transpose(1, 2, 0)  # [n, 2, N]
    # pairs are (instance, decoder, query), so that expressions run over all queries of an instance at a time
    points_first = np.ascontiguousarray(points.transpose(3, 4, 1, 0, 2)[:, :, sample])  # [P, 2, N, D, Qc]
    apart = distances(target_first[..., None, None], points_first)  # [n, P, N, D, Qc]
    pair_lengths = np.broadcast_to(lengths[:, None, None], apart.shape[2:])
    sequence = sequence_costs(apart.reshape(longest, size, -1), pair_lengths.ravel(), config.end_point_weight)
    total = costs[:, sample, :, instance]  # [N, D, Qc]
    total = total + config.cost_points * sequence.reshape(total.shape)
    total = np.nan_to_num(total, nan=_WORST_COST, posinf=_WORST_COST, neginf=-_WORST_COST)

    bounds = np.searchsorted(sample, np.arange(samples + 1))
    found = [(np.zeros(0, int),) * 3]  # (instance among all N, decoder, query)
    for d in range(decoders):
        for start, end in zip(bounds[:-1], bounds[1:]):
            query, column = linear_sum_assignment(total[start:end, d].T)
            found.append((start + column, np.full(len(query), d), query))
    which, decoder, query = (np.concatenate(parts) for parts in zip(*found))
    _, path = match_points(apart[:, :, which, decoder, query], lengths[which])
    return ClassMatches(decoder, sample[which], instance[which], query, path, lengths[which])
