"""Costs of queries against instances, and their assignment, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from support.random_targets import CONFIG, MAP, predictions, targets

from pivotnet.criterion.masks import compare_masks, mean_softplus
from pivotnet.criterion.matching import ClassMatches, device_costs, match
from pivotnet.criterion.sequence import distances, match_points, sequence_costs
from pivotnet.criterion.upsampling import Upsampling
from pivotnet.structures import Predictions, Targets


def run(predicted: Predictions, batch: Targets) -> tuple[np.ndarray, list[ClassMatches]]:
    same = Upsampling(CONFIG.mask_size, CONFIG.mask_size, predicted.masks.device)
    every = torch.cat([batch.masks, batch.semantic[:, :, None]], 2).float()
    compared = compare_masks(predicted.masks, predicted.semantic_logits[..., 1, :, :], every, MAP.num_queries, same)
    losses = compared.instance_losses(len(predicted.masks), MAP.num_queries)
    costs = device_costs(predicted.object_logits, losses, CONFIG.criterion).numpy()
    return costs, match(costs, predicted.points.detach().numpy(), batch, CONFIG.criterion, MAP)


def test_costs_are_object_probability_cross_entropy_and_dice() -> None:
    predicted, batch = predictions(2), targets((3, 1, 2), (1, 0, 4))
    costs, _ = run(predicted, batch)
    first = 0
    for c, queries in enumerate(MAP.num_queries):
        for d, b, q in [(0, 0, 0), (1, 1, queries - 1), (2, 0, queries // 2)]:
            for g in range(int(batch.counts[b, c])):
                logits = predicted.masks[d, b, first + q].detach().double()
                target = batch.masks[b, c, g].double()
                overlap = (logits.sigmoid() * target).sum()
                dice = 1 - (2 * overlap + 1) / (logits.sigmoid().sum() + target.sum() + 1)
                mask = F.binary_cross_entropy_with_logits(logits, target) + dice
                chance = predicted.object_logits[d, b, first + q].detach().double().softmax(-1)[0]
                assert costs[d, b, first + q, g] == pytest.approx(float(5 * mask - 2 * chance), rel=1e-5)
        first += queries


def test_every_pair_is_the_cheapest_assignment() -> None:
    predicted, batch = predictions(2, seed=1), targets((4, 3, 2), (2, 0, 5), seed=1)
    costs, matches = run(predicted, batch)
    first_query = first_point = 0
    for c, (queries, size) in enumerate(zip(MAP.num_queries, MAP.max_points)):
        for d, b in np.ndindex(3, 2):
            count = int(batch.counts[b, c])
            own = np.flatnonzero((matches[c].decoder == d) & (matches[c].sample == b))
            assert len(own) == count
            total = np.zeros((queries, count))
            paths = {}
            for q, g in np.ndindex(queries, count):
                start = first_point + q * size
                line = predicted.points[d, b, start : start + size].detach().numpy()
                length = int(batch.lengths[b, c, g])
                apart = distances(batch.points[b, c, g, :length].numpy()[..., None], line[..., None])
                sequence = sequence_costs(apart, np.array([length]), 5.0)[0]
                total[q, g] = costs[d, b, first_query + q, g] + 30 * sequence
                paths[q, g] = match_points(apart, np.array([length]))[1][0]
            expected = dict(zip(*linear_sum_assignment(total)))
            assert dict(zip(matches[c].query[own], matches[c].instance[own])) == expected
            for k in own:
                q, g, length = matches[c].query[k], matches[c].instance[k], matches[c].lengths[k]
                assert length == batch.lengths[b, c, g]
                np.testing.assert_array_equal(matches[c].path[k, :length], paths[q, g])
        first_query += queries
        first_point += queries * size


def test_more_instances_than_queries_leave_some_unmatched() -> None:
    predicted, batch = predictions(1), targets((2, 1, 18))
    _, matches = run(predicted, batch)
    for d in range(3):
        own = matches[2].decoder == d
        assert sorted(matches[2].query[own]) == list(range(15))
        assert len(set(matches[2].instance[own])) == 15


def test_no_instances() -> None:
    _, matches = run(predictions(2), targets((0, 0, 0), (0, 0, 0)))
    assert [len(found.query) for found in matches] == [0, 0, 0]


def test_predictions_that_are_not_finite_are_still_matched() -> None:
    """The loss tells training about them; matching must not raise before it can."""
    predicted, batch = predictions(1), targets((3, 2, 1))
    with torch.no_grad():
        predicted.points[0, 0, :50] = float("nan")
        predicted.masks[1, 0, 3] = float("inf")
    _, matches = run(predicted, batch)
    assert [len(found.query) for found in matches] == [9, 6, 3]


@pytest.mark.parametrize("shape", [(3, 5000), (2, 97), (4, 80000)])
@pytest.mark.parametrize("offset", [-12.0, 0.0, 12.0])
def test_mean_softplus(shape: tuple[int, int], offset: float) -> None:
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 4 + offset
    expected = F.softplus(logits.double()).mean(-1)
    torch.testing.assert_close(mean_softplus(logits, logits.sigmoid()).double(), expected, rtol=1e-6, atol=1e-8)


def test_mean_softplus_of_extreme_logits() -> None:
    logits = torch.tensor([[-200.0, 200.0] * 32, [-90.0, 100.0] * 32])
    torch.testing.assert_close(mean_softplus(logits, logits.sigmoid()), torch.tensor([100.0, 50.0]))
