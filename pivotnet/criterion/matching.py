"""Assigns queries to target instances: costs on the device, assignment on the host. Upstream's
HungarianMatcher for all decoders, samples and classes at once. Letters in shapes: see pivotnet.structures; of one
class, Qc queries of P points, N target instances of all samples of at most n points, K matched pairs."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pivotnet.config import CriterionConfig, MapConfig
from pivotnet.criterion.sequence import distances, match_points, sequence_costs
from pivotnet.structures import Targets

# Stands for costs that are not finite. The assignment must not fail on them: the loss itself is not finite then, and
# training stops on that.
_WORST_COST = 1e9


@dataclass
class ClassMatches:
    """The matched pairs of one class; all decoders and samples in one list."""

    decoder: np.ndarray  # int [K]
    sample: np.ndarray  # int [K]
    instance: np.ndarray  # int [K] target instance of the sample and class
    query: np.ndarray  # int [K] query of the class
    path: np.ndarray  # int [K, n] predicted point of each target point, P - 1 after the target's last point
    lengths: np.ndarray  # int [K] points of the target


@torch.no_grad()
def device_costs(object_logits: Tensor, mask_losses: Tensor, config: CriterionConfig) -> Tensor:
    """The costs that are computed on the device, float32 [D, B, Q, G]: those of the objects, from their logits
    [D, B, Q, 2], and those of the masks, float32 [D, B, Q, G], of every query with every instance."""
    probabilities = object_logits.softmax(-1)[..., :1]
    return torch.sub(config.cost_mask * mask_losses, probabilities, alpha=config.cost_object)


def match(
    costs: np.ndarray, points: np.ndarray, targets: Targets, criterion: CriterionConfig, map_config: MapConfig
) -> list[ClassMatches]:
    """Assign queries to instances by the ``costs`` of object and mask, float32 [D, B, Q, G], and the predicted
    ``points``, float32 [D, B, T, 2], to those of targets in host memory. Returns the matches of each class. Where a
    sample has more instances than the class has queries, some stay without one."""
    decoders, batch = points.shape[:2]
    target_points, lengths, counts = (tensor.numpy() for tensor in (targets.points, targets.lengths, targets.counts))
    matches = []
    for label, (queries, size) in enumerate(zip(map_config.num_queries, map_config.max_points)):
        sample, instance = np.nonzero(np.arange(lengths.shape[2]) < counts[:, label, None])  # [N], sample by sample
        length = lengths[sample, label, instance]
        longest = int(length.max(initial=2))
        lines = target_points[sample, label, instance, :longest].transpose(1, 2, 0)  # [n, 2, N]
        predicted = points[:, :, map_config.point_slices[label]].reshape(decoders, batch, queries, size, 2)
        predicted = np.ascontiguousarray(predicted.transpose(3, 4, 1, 0, 2)[:, :, sample])  # [P, 2, N, D, Qc]
        distance = distances(lines[..., None, None], predicted)  # [n, P, N, D, Qc]

        pair_length = np.repeat(length, decoders * queries)
        sequence = sequence_costs(distance.reshape(longest, size, -1), pair_length, criterion.end_point_weight)
        cost = costs[:, :, map_config.query_slices[label]][:, sample, :, instance]  # [N, D, Qc]
        cost = cost + criterion.cost_points * sequence.reshape(cost.shape)
        cost = np.nan_to_num(cost, nan=_WORST_COST, posinf=_WORST_COST, neginf=-_WORST_COST)

        pairs = [np.zeros((3, 0), int)]  # rows: index in N, decoder, query
        for b in range(batch):
            own = np.flatnonzero(sample == b)
            for d in range(decoders):
                query, column = linear_sum_assignment(cost[own, d].T)
                pairs.append(np.stack([own[column], np.full(len(query), d), query]))
        index, decoder, query = np.concatenate(pairs, axis=1)
        path = match_points(distance[:, :, index, decoder, query], length[index])[1]
        matches.append(ClassMatches(decoder, sample[index], instance[index], query, path, length[index]))
    return matches
