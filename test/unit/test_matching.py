"""Costs, assignment, and the dynamic programme against every strictly increasing assignment, tried one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from support.random_targets import CONFIG, MAP, predictions, targets

from pivotnet.criterion.masks import all_mask_losses, mask_losses
from pivotnet.criterion.matching import ClassMatches, device_costs, match
from pivotnet.criterion.sequence import distances, match_points, sequence_costs
from pivotnet.structures import Predictions, Targets


def assignments(length: int, predicted: int) -> list[tuple[int, ...]]:
    """All strictly increasing assignments of target points that use the first and the last predicted point."""
    middle = itertools.combinations(range(1, predicted - 1), length - 2)
    return [(0, *chosen, predicted - 1) for chosen in middle]


def brute_force(cost: np.ndarray, length: int) -> tuple[float, tuple[int, ...]]:
    """Smallest sum and its assignment for one pair [n, P]; ties: the earliest points, the last target point's first."""
    sums = {found: sum(float(cost[i, j]) for i, j in enumerate(found)) for found in assignments(length, cost.shape[1])}
    best = min(sums.values())
    return best, min((found for found in sums if sums[found] == best), key=lambda found: found[::-1])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("predicted", [2, 3, 5, 8])
def test_equal_to_brute_force(predicted: int, ties: bool) -> None:
    rng = np.random.default_rng(predicted + 100 * ties)
    for _ in range(10):
        pairs, points = int(rng.integers(1, 12)), int(rng.integers(2, predicted + 1))
        lengths = rng.integers(2, points + 1, pairs)
        cost = rng.random((points, predicted, pairs), np.float32)
        if ties:
            cost = (cost * 3).round() / np.float32(4)  # quarters: sums are exact, and often equal
        sums, paths = match_points(cost, lengths)
        sequence = sequence_costs(cost, lengths, 5)
        assert paths.shape == (pairs, points)
        for k, length in enumerate(lengths):
            expected, path = brute_force(cost[:length, :, k], length)
            assert tuple(paths[k, :length]) == path
            assert (paths[k, length:] == predicted - 1).all()
            assert sums[k] == pytest.approx(expected, rel=1e-12)
            ends = float(cost[0, 0, k]) + float(cost[length - 1, -1, k])
            assert sequence[k] == pytest.approx((expected + 5 * ends) / (length + 10), rel=1e-12)


def test_no_pairs() -> None:
    none = np.zeros((2, 10, 0), np.float32)
    assert sequence_costs(none, np.zeros(0, int), 5).shape == (0,)
    assert match_points(none, np.zeros(0, int))[1].shape == (0, 2)


def test_distances_are_l1_in_float32() -> None:
    rng = np.random.default_rng(0)
    target, predicted = rng.random((4, 2, 1, 3), np.float32), rng.random((6, 2, 5, 3), np.float32)
    distance = distances(target, predicted)
    assert distance.shape == (4, 6, 5, 3) and distance.dtype == np.float32
    for i, j, q, k in np.ndindex(distance.shape):
        rows, columns = np.abs(target[i, :, 0, k] - predicted[j, :, q, k])
        assert distance[i, j, q, k] == rows + columns


def run(predicted: Predictions, batch: Targets) -> tuple[np.ndarray, list[ClassMatches]]:
    losses = all_mask_losses(predicted.masks, batch.masks.float(), MAP.num_queries)
    costs = device_costs(predicted.object_logits, losses, CONFIG.criterion).numpy()
    return costs, match(costs, predicted.points.detach().numpy(), batch, CONFIG.criterion, MAP)


def test_costs_are_object_probability_cross_entropy_and_dice() -> None:
    predicted, batch = predictions(2), targets((3, 1, 2), (1, 0, 4))
    costs, _ = run(predicted, batch)
    for c, queries in enumerate(MAP.query_slices):
        for d, b, q in [(0, 0, queries.start), (1, 1, queries.stop - 1), (2, 0, queries.stop - 2)]:
            probability = predicted.object_logits[d, b, q].detach().double().softmax(-1)[0]
            for g in range(int(batch.counts[b, c])):
                logits, target = predicted.masks[d, b, q].detach().double(), batch.masks[b, c, g].double()
                overlap = (logits.sigmoid() * target).sum()
                dice = 1 - (2 * overlap + 1) / (logits.sigmoid().sum() + target.sum() + 1)
                mask = F.binary_cross_entropy_with_logits(logits, target) + dice
                assert costs[d, b, q, g] == pytest.approx(float(5 * mask - 2 * probability), rel=1e-5)
                assert mask_losses(logits[None], target[None]).item() == pytest.approx(float(mask), rel=1e-12)


def test_mask_losses_of_extreme_logits_are_finite() -> None:
    logits, target = torch.tensor([-200.0, 200.0]).repeat(8).view(1, 1, 1, 4, 4), torch.zeros(1, 1, 1, 4, 4)
    assert all_mask_losses(logits, target, (1,)).item() == pytest.approx(100 + 1 - 1 / 9)


def test_every_pair_is_the_cheapest_assignment() -> None:
    predicted, batch = predictions(2, seed=1), targets((4, 3, 2), (2, 0, 5), seed=1)
    costs, matches = run(predicted, batch)
    for c, (queries, size) in enumerate(zip(MAP.num_queries, MAP.max_points)):
        for d, b in np.ndindex(3, 2):
            count = int(batch.counts[b, c])
            own = np.flatnonzero((matches[c].decoder == d) & (matches[c].sample == b))
            assert len(own) == count
            lines = predicted.points[d, b, MAP.point_slices[c]].detach().numpy().reshape(queries, size, 2)
            total = costs[d, b, MAP.query_slices[c], :count].astype(np.float64)
            paths = {}
            for q, g in np.ndindex(queries, count):
                length = batch.lengths[b, c, g].numpy()[None]
                distance = distances(batch.points[b, c, g, : length[0]].numpy()[..., None], lines[q, ..., None])
                total[q, g] += 30 * sequence_costs(distance, length, 5.0)[0]
                paths[q, g] = match_points(distance, length)[1][0]
            expected = dict(zip(*linear_sum_assignment(total)))
            assert dict(zip(matches[c].query[own], matches[c].instance[own])) == expected
            for k in own:
                q, g, length = matches[c].query[k], matches[c].instance[k], matches[c].lengths[k]
                assert length == batch.lengths[b, c, g]
                np.testing.assert_array_equal(matches[c].path[k, :length], paths[q, g])


def test_more_instances_than_queries_leave_some_unmatched() -> None:
    _, matches = run(predictions(1), targets((2, 1, 18)))
    for d in range(3):
        own = matches[2].decoder == d
        assert sorted(matches[2].query[own]) == list(range(15))
        assert len(set(matches[2].instance[own])) == 15


def test_predictions_that_are_not_finite_are_still_matched() -> None:
    """The loss reports them; matching must not raise before."""
    predicted, batch = predictions(1), targets((3, 2, 1))
    with torch.no_grad():
        predicted.points[0, 0, :50] = float("nan")
        predicted.masks[1, 0, 3] = float("inf")
    _, matches = run(predicted, batch)
    assert [len(found.query) for found in matches] == [9, 6, 3]
