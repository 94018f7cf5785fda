"""Which query stands for which target instance: costs on the device, assignment on the host.

Upstream's HungarianMatcher for all decoders, samples and classes at once. The mask costs are matrix products, since
the mean cross entropy of logits x with a target t in {0, 1} is mean(softplus(x)) - x.t / pixels, and the overlap of the
dice cost is sigmoid(x).t; no query x target copy of a mask is made.

Letters in shapes: see pivotnet.structures; Qc and P are queries and points of one class, K matched pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pivotnet.config import CriterionConfig, MapConfig
from pivotnet.criterion.sequence import distances, match_points, sequence_costs
from pivotnet.structures import Predictions, Targets

# Stands for costs that are not finite. The assignment must not fail on them: the loss itself is not finite then, and
# that is how training learns of it.
_WORST_COST = 1e9


@dataclass
class MaskComparison:
    """Every query's mask against every target mask of its class."""

    loss: Tensor  # [D, B, Q, G] cross entropy + dice
    overlap: Tensor  # [D, B, Q, G] sum of probability x target
    area: Tensor  # [D, B, Q] sum of the probabilities


@dataclass
class ClassMatches:
    """The matched pairs of one class; all decoders and samples in one list."""

    decoder: np.ndarray  # int [K]
    sample: np.ndarray  # int [K]
    instance: np.ndarray  # int [K] target instance of the sample and class
    query: np.ndarray  # int [K] query of the class
    path: np.ndarray  # int [K, n] predicted point of each target point, P - 1 behind the target's last point
    lengths: np.ndarray  # int [K] points of the target


def resize_masks(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits [B, M, h, w] as float32 [B, M, H, W], upsampled (bilinear, corners aligned) unless they have that size."""
    logits = logits.float()
    if tuple(logits.shape[-2:]) == size:
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)


def mean_softplus(logits: Tensor, probabilities: Tensor) -> Tensor:
    """Mean over the last axis of softplus(x) = max(x, 0) - log(sigmoid(|x|)); not differentiable.

    Logarithms are slow on a CPU: one is taken of the product of up to 64 factors, which all lie in [1/2, 1].

    Args:
        logits: float32 [..., N].
        probabilities: float32 [..., N], their sigmoid; overwritten, as the memory to work in.

    Returns:
        float32 [...].
    """
    pixels = logits.shape[-1]
    group = max(n for n in range(1, 65) if pixels % n == 0)
    factors = probabilities.sub_(0.5).abs_().add_(0.5)  # sigmoid(|x|), exact to a rounding
    logs = factors.unflatten(-1, (-1, group)).prod(-1).log_().sum(-1)
    return (torch.clamp_min(logits, 0, out=probabilities).sum(-1) - logs) / pixels


def mask_loss(softplus: Tensor, product: Tensor, overlap: Tensor, area: Tensor, target_area: Tensor, pixels: int):
    """Mean binary cross entropy plus dice loss of masks, from their sums over the pixels (all broadcast).

    Args:
        softplus: mean of softplus(x).
        product: sum of x t.
        overlap: sum of sigmoid(x) t.
        area: sum of sigmoid(x).
        target_area: sum of t.
        pixels: number of pixels.
    """
    return softplus - product / pixels + 1 - (2 * overlap + 1) / (area + target_area + 1)


@torch.no_grad()
def compare_masks(logits: Tensor, targets: Tensor, num_queries: tuple[int, ...]) -> MaskComparison:
    """Compare all queries with all instances of their class.

    Args:
        logits: [D, B, Q, h, w] of any floating type; upsampled one decoder at a time if smaller than the targets.
        targets: float32 [B, C, G, H, W] 0/1.
        num_queries: queries of each class, C numbers that sum to Q.
    """
    size = (targets.shape[-2], targets.shape[-1])
    pixels = size[0] * size[1]
    instances = targets.flatten(1, 2).flatten(2)  # [B, CG, HW]
    # the row of ones makes the products sum up the probabilities, too
    rows = torch.cat([instances, torch.ones_like(instances[:, :1])], 1)
    # One decoder at a time: its masks are 19 MB, those of all 115 MB. Fresh memory costs a CPU more than the arithmetic
    # does, so one buffer serves all decoders.
    probabilities = instances.new_empty((*logits.shape[1:3], pixels))
    products, overlaps, softplus = [], [], []
    for decoder in logits:
        x = resize_masks(decoder, size).flatten(2)
        torch.sigmoid(x, out=probabilities)
        products.append(torch.bmm(rows, x.transpose(1, 2)))
        overlaps.append(torch.bmm(rows, probabilities.transpose(1, 2)))
        softplus.append(mean_softplus(x, probabilities))
    both = torch.stack(products + overlaps).unflatten(0, (2, -1))  # [2, D, B, CG + 1, Q]
    area = both[1, :, :, -1]
    groups = both[..., :-1, :].unflatten(-2, targets.shape[1:3]).transpose(-1, -2)  # [2, D, B, C, Q, G]
    own = [queries[..., c, :, :] for c, queries in enumerate(groups.split(num_queries, dim=-2))]
    product, overlap = torch.cat(own, -2).unbind()  # [D, B, Q, G]
    target_area = instances.sum(-1).unflatten(1, targets.shape[1:3])  # [B, C, G]
    target_area = torch.cat([c.expand(-1, n, -1) for c, n in zip(target_area.split(1, dim=1), num_queries)], 1)
    loss = mask_loss(torch.stack(softplus)[..., None], product, overlap, area[..., None], target_area, pixels)
    return MaskComparison(loss, overlap, area)


@torch.no_grad()
def device_costs(predictions: Predictions, masks: MaskComparison, config: CriterionConfig) -> Tensor:
    """The costs that the device knows, [D, B, Q, G]: object probability and masks."""
    logits = predictions.object_logits.float()
    probability = (logits[..., 0] - logits[..., 1]).sigmoid()[..., None]
    return config.cost_mask * masks.loss - config.cost_object * probability


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
