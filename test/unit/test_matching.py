"""Matching at its edges; its numbers are upstream's in test/golden."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.random_targets import CONFIG, MAP, predictions, targets

from pivotnet.criterion.masks import all_mask_losses
from pivotnet.criterion.matching import ClassMatches, device_costs, match
from pivotnet.criterion.sequence import match_points, sequence_costs
from pivotnet.structures import Predictions, Targets


def test_no_pairs() -> None:
    none = np.zeros((2, 10, 0), np.float32)
    assert sequence_costs(none, np.zeros(0, int), 5).shape == (0,)
    assert match_points(none, np.zeros(0, int))[1].shape == (0, 2)


def run(predicted: Predictions, batch: Targets) -> list[ClassMatches]:
    losses = all_mask_losses(predicted.masks, batch.masks.float(), MAP.num_queries)
    costs = device_costs(predicted.object_logits, losses, CONFIG.criterion).numpy()
    return match(costs, predicted.points.detach().numpy(), batch, CONFIG.criterion, MAP)


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
