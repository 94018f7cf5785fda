"""Point, validity and object losses against upstream's loops, written plainly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.random_targets import CONFIG, MAP, predictions, targets
from torch import Tensor

from pivotnet.criterion.criterion import Criterion, CriterionResult
from pivotnet.structures import Predictions, Targets


def plain_terms(predicted: Predictions, batch: Targets, result: CriterionResult) -> dict[str, Tensor]:
    """The unweighted terms of a batch of one from its matches, pair by pair and point by point, in float64."""
    terms = {name: torch.zeros(()).double() for name in ("pts", "collinear", "logits", "objects")}
    first_query = first_point = 0
    for c, (queries, size) in enumerate(zip(MAP.num_queries, MAP.max_points)):
        found, instances = result.matches[c], max(1, int(batch.counts[0, c]))
        for d, weight in enumerate(CONFIG.criterion.decoder_weights):
            share = weight / (3 * 3)
            labels = torch.ones(queries, dtype=torch.long)
            pivots, logits = [], []
            for k in (found.decoder == d).nonzero()[0]:
                query, length = int(found.query[k]), int(found.lengths[k])
                labels[query] = 0
                start = first_point + query * size
                line = predicted.points[d, 0, start : start + size].double()
                goal = batch.points[0, c, found.instance[k], :length].double()
                path = [int(j) for j in found.path[k, :length]]
                weights = torch.ones(length).double()
                weights[[0, -1]] = 6
                distance = (line[path] - goal).abs().sum(-1)
                terms["pts"] = terms["pts"] + share * (distance * weights).sum() / weights.sum() / instances
                between = []
                for i, (here, there) in enumerate(zip(path, path[1:])):
                    for step in range(1, there - here):
                        ratio = step / (there - here)
                        between.append((line[here + step] - (goal[i] * (1 - ratio) + goal[i + 1] * ratio)).abs().sum())
                if between:
                    terms["collinear"] = terms["collinear"] + share * sum(between) / len(between) / instances
                pivots.append(torch.zeros(size, dtype=torch.long))
                pivots[-1][path] = 1
                logits.append(predicted.point_logits[d, 0, start : start + size].double())
            if pivots:
                balance = torch.tensor([0.2, 1.0]).double()
                loss = F.cross_entropy(torch.cat(logits), torch.cat(pivots), balance)
                terms["logits"] = terms["logits"] + share * loss / instances
            own = predicted.object_logits[d, 0, first_query : first_query + queries].double()
            terms["objects"] = terms["objects"] + share * F.cross_entropy(
                own, labels, torch.tensor([1.0, 0.5]).double()
            )
        first_query += queries
        first_point += queries * size
    return terms


@pytest.mark.parametrize("counts", [(5, 3, 4), (1, 0, 2), (0, 0, 1)])
def test_terms_and_gradients(counts: tuple[int, int, int]) -> None:
    predicted, batch = predictions(1), targets(counts)
    result = Criterion(CONFIG)(predicted, batch)
    plain = plain_terms(predicted, batch, result)
    pairs = {
        "pts_loss": 30 * plain["pts"],
        "collinear_pts_loss": 10 * plain["collinear"],
        "pt_logits_loss": 2 * plain["logits"],
        "ins_obj_loss": 2 * plain["objects"],
    }
    for name, expected in pairs.items():
        assert result.terms[name].item() == pytest.approx(expected.item(), rel=1e-5), name
    leaves = (predicted.points, predicted.point_logits, predicted.object_logits)
    expected_gradients = torch.autograd.grad(sum(pairs.values()), leaves)
    for ours, expected in zip(torch.autograd.grad(result.total, leaves), expected_gradients):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-8)
