"""Matching at its edges, and against all strictly increasing assignments; its numbers are upstream's in test/golden."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from support.random_targets import CONFIG, MAP, predictions, targets

from pivotnet.criterion.masks import all_mask_losses, mask_losses
from pivotnet.criterion.matching import ClassMatches, device_costs, match
from pivotnet.criterion.sequence import match_points, sequence_costs
from pivotnet.structures import Predictions, Targets


def brute_force(cost: np.ndarray) -> tuple[float, tuple[int, ...]]:
    """Smallest sum over all strictly increasing assignments that use the first and the last predicted point [n, P], and
    its assignment; of several the earliest, the last target point's first."""
    length, predicted = cost.shape
    paths = [(0, *middle, predicted - 1) for middle in itertools.combinations(range(1, predicted - 1), length - 2)]
    sums = [float(cost[range(length), path].sum(dtype=np.float64)) for path in paths]
    return min(zip(sums, paths), key=lambda found: (found[0], found[1][::-1]))


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
            expected, path = brute_force(cost[:length, :, k])
            assert tuple(paths[k, :length]) == path
            assert (paths[k, length:] == predicted - 1).all()
            assert sums[k] == pytest.approx(expected, rel=1e-12)
            ends = float(cost[0, 0, k]) + float(cost[length - 1, -1, k])
            assert sequence[k] == pytest.approx((expected + 5 * ends) / (length + 10), rel=1e-12)


def test_no_pairs() -> None:
    none = np.zeros((2, 10, 0), np.float32)
    assert sequence_costs(none, np.zeros(0, int), 5).shape == (0,)
    assert match_points(none, np.zeros(0, int))[1].shape == (0, 2)


def run(predicted: Predictions, batch: Targets) -> list[ClassMatches]:
    losses = all_mask_losses(predicted.masks, batch.masks.float(), MAP.num_queries)
    costs = device_costs(predicted.object_logits, losses, CONFIG.criterion).numpy()
    return match(costs, predicted.points.detach().numpy(), batch, CONFIG.criterion, MAP)


def test_mask_losses_of_all_pairs_are_those_of_single_pairs() -> None:
    predicted, batch = predictions(2), targets((3, 1, 2), (1, 0, 4))
    losses = all_mask_losses(predicted.masks, batch.masks.float(), MAP.num_queries)
    for c, queries in enumerate(MAP.query_slices):
        for d, b, g in [(0, 0, 0), (2, 1, 3), (1, 0, 2)]:
            masks = predicted.masks[d, b, queries].detach()
            single = mask_losses(masks, batch.masks[b, c, g].float().expand(masks.shape))
            torch.testing.assert_close(losses[d, b, queries, g], single, rtol=1e-5, atol=1e-5)


def test_mask_losses_of_extreme_logits_are_finite() -> None:
    logits, target = torch.tensor([-200.0, 200.0]).repeat(8).view(1, 1, 1, 4, 4), torch.zeros(1, 1, 1, 4, 4)
    assert all_mask_losses(logits, target, (1,)).item() == pytest.approx(100 + 1 - 1 / 9)


def test_more_instances_than_queries_leave_some_unmatched() -> None:
    matches = run(predictions(1), targets((2, 1, 18)))
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
    assert [len(found.query) for found in run(predicted, batch)] == [9, 6, 3]
