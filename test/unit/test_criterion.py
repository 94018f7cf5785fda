"""The criterion against upstream's loops written plainly; what it needs, gives and costs; what a batch means."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.random_targets import CONFIG, FIELDS, MAP, gradients, prediction_part, predictions, target_part, targets
from support.ranks import CRITERION_COUNTS, criterion_share, run_ranks
from torch import Tensor

from pivotnet.audit.operators import OperatorCounter, tensors_in, waits
from pivotnet.criterion import criterion as criterion_module
from pivotnet.criterion.criterion import TERMS, Criterion, CriterionResult, class_normaliser
from pivotnet.criterion.masks import upsample
from pivotnet.errors import PivotNetError
from pivotnet.structures import Predictions, Targets

COUNTS = (6, 3, 4)


def plain_mask_loss(grid: Tensor, target: Tensor) -> Tensor:
    logits = F.interpolate(grid[None, None], size=target.shape, mode="bilinear", align_corners=True)[0, 0]
    probabilities, target = logits.sigmoid(), target.double()
    dice = 1 - (2 * (probabilities * target).sum() + 1) / (probabilities.sum() + target.sum() + 1)
    return F.binary_cross_entropy_with_logits(logits, target) + dice


def plain_terms(predicted: Predictions, batch: Targets, result: CriterionResult) -> dict[str, Tensor]:
    """The terms of a batch of one from its matches, pair by pair and point by point."""
    weights = CONFIG.criterion
    terms = {name: torch.zeros((), dtype=torch.float64) for name in TERMS}
    for c, (queries, size) in enumerate(zip(MAP.num_queries, MAP.max_points)):
        found, instances = result.matches[c], max(1, int(batch.counts[0, c]))
        first_query, first_point = MAP.query_slices[c].start, MAP.point_slices[c].start
        for e, weight in enumerate(weights.bev_weights):
            loss = plain_mask_loss(predicted.semantic_logits[e, 0, c, 1], batch.semantic[0, c])
            terms["sem_msk_loss"] = terms["sem_msk_loss"] + 3 * weight / (3 * 2) * loss
        for d, weight in enumerate(weights.decoder_weights):
            weight = weight / (3 * 3)
            labels = torch.ones(queries, dtype=torch.long)
            pivots, logits = [], []
            for k in (found.decoder == d).nonzero()[0]:
                query, length = int(found.query[k]), int(found.lengths[k])
                labels[query] = 0
                target = batch.points[0, c, found.instance[k], :length].double()
                own = slice(first_point + query * size, first_point + (query + 1) * size)
                line, path = predicted.points[d, 0, own], [int(j) for j in found.path[k, :length]]
                ends = torch.ones(length).double()
                ends[[0, -1]] = 6
                distance = (line[path] - target).abs().sum(-1)
                loss = (distance * ends).sum() / ends.sum()
                terms["pts_loss"] = terms["pts_loss"] + 30 * weight * loss / instances
                between = []
                for i, (here, there) in enumerate(zip(path, path[1:])):
                    for step in range(1, there - here):
                        ratio = step / (there - here)
                        wanted = target[i] * (1 - ratio) + target[i + 1] * ratio
                        between.append((line[here + step] - wanted).abs().sum())
                if between:
                    loss = sum(between) / len(between)
                    terms["collinear_pts_loss"] = terms["collinear_pts_loss"] + 10 * weight * loss / instances
                loss = plain_mask_loss(predicted.masks[d, 0, first_query + query], batch.masks[0, c, found.instance[k]])
                terms["ins_msk_loss"] = terms["ins_msk_loss"] + 5 * weight * loss / instances
                pivots.append(torch.zeros(size, dtype=torch.long))
                pivots[-1][path] = 1
                logits.append(predicted.point_logits[d, 0, own])
            if pivots:
                loss = F.cross_entropy(torch.cat(logits), torch.cat(pivots), torch.tensor([0.2, 1.0]).double())
                terms["pt_logits_loss"] = terms["pt_logits_loss"] + 2 * weight * loss / instances
            own = predicted.object_logits[d, 0, first_query : first_query + queries]
            loss = F.cross_entropy(own, labels, torch.tensor([1.0, 0.5]).double())
            terms["ins_obj_loss"] = terms["ins_obj_loss"] + 2 * weight * loss
    return terms


@pytest.mark.parametrize(
    ("counts", "size"),
    [((5, 3, 4), (32, 16)), ((2, 1, 2), CONFIG.mask_size), ((3, 0, 2), (32, 16)), ((0, 0, 0), (32, 16))],
)
def test_terms_and_gradients(counts: tuple[int, int, int], size: tuple[int, int]) -> None:
    """Empty classes give zeros of the whole graph."""
    predicted, batch = predictions(1, size=size), targets(counts)
    result = Criterion(CONFIG)(predicted, batch)
    result.total.backward()
    exact = Predictions(**{name: getattr(predicted, name).detach().double().requires_grad_() for name in FIELDS})
    expected = plain_terms(exact, batch, result)
    sum(expected.values()).backward()
    assert tuple(result.terms) == TERMS
    for name, term in result.terms.items():
        assert term.dtype == torch.float32 and not term.requires_grad
        assert term.item() == pytest.approx(expected[name].item(), rel=1e-5), name
    assert result.total.item() == pytest.approx(sum(term.item() for term in expected.values()), rel=1e-6)
    for name, gradient in gradients(predicted).items():
        wanted = getattr(exact, name).grad
        wanted = torch.zeros_like(gradient).double() if wanted is None else wanted
        assert gradient is not None, f"{name} is not part of the graph"
        torch.testing.assert_close(gradient.double(), wanted, rtol=1e-4, atol=1e-8, msg=name)


def test_order_of_the_instances_does_not_matter() -> None:
    predicted, batch = predictions(2), targets((5, 3, 4), (2, 3, 6))
    order = {"points": batch.points.clone(), "lengths": batch.lengths.clone(), "masks": batch.masks.clone()}
    for b in range(2):
        for c in range(3):
            n = int(batch.counts[b, c])
            shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(b + c))
            for array in order.values():
                array[b, c, :n] = array[b, c, shuffled]
    result, permuted = (Criterion(CONFIG)(predicted, t) for t in (batch, dataclasses.replace(batch, **order)))
    for name in TERMS:
        torch.testing.assert_close(permuted.terms[name], result.terms[name], rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("source", "size"),
    [
        ((64, 32), (400, 200)),
        ((8, 6), (20, 10)),
        ((5, 7), (5, 9)),
        ((1, 3), (4, 1)),
        ((9, 9), (4, 3)),
        ((4, 3), (4, 3)),
    ],
)
def test_upsampling_and_its_gradient_are_those_of_interpolate(source: tuple[int, int], size: tuple[int, int]) -> None:
    grids = torch.randn(3, *source, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = F.interpolate(grids[None], size=size, mode="bilinear", align_corners=True)[0]
    found = upsample(grids, size)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    outer = torch.randn(3, *size, generator=torch.Generator().manual_seed(1))
    ours, wanted = (torch.autograd.grad((result * outer).sum(), grids)[0] for result in (found, expected))
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-4)


def test_bfloat16_predictions_under_autocast_are_computed_in_float32() -> None:
    half, batch = predictions(2, dtype=torch.bfloat16), targets(COUNTS, (2, 1, 0))
    single = Predictions(**{name: getattr(half, name).detach().float().requires_grad_() for name in FIELDS})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = Criterion(CONFIG)(half, batch)
    expected = Criterion(CONFIG)(single, batch)
    assert result.total.dtype == torch.float32
    assert result.total.item() == expected.total.item()
    result.total.backward()
    expected.total.backward()
    for name, gradient in gradients(half).items():
        assert gradient.dtype == torch.bfloat16
        torch.testing.assert_close(gradient, gradients(single)[name].bfloat16(), rtol=1e-2, atol=1e-8)


def test_piggybacked_values_come_back_in_the_same_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []
    original = criterion_module.to_host
    monkeypatch.setattr(criterion_module, "to_host", lambda tensors: copies.append(1) or original(tensors))
    criterion, predicted, batch = Criterion(CONFIG), predictions(1), targets(COUNTS)
    values = torch.tensor([[1.5, float("nan")], [3.0, 4.0]])
    found = criterion(predicted, batch, values).piggybacked
    torch.testing.assert_close(torch.from_numpy(found), values, rtol=0, atol=0, equal_nan=True)
    assert criterion(predicted, batch).piggybacked is None
    assert len(copies) == 2  # one a step


class Operators(OperatorCounter):
    """Counts operators, none of which may wait or give float64."""

    def operator(self, operator: Any, args: Any, kwargs: Any, result: Any) -> None:
        assert not waits(operator, args), operator
        assert all(tensor.dtype != torch.float64 for tensor in tensors_in(result)), operator
        super().operator(operator, args, kwargs, result)


@pytest.mark.parametrize("batch", [1, 3])
def test_few_operators_and_no_reads_on_the_device(batch: int) -> None:
    """The network's decoders count, not samples, instances or points; nothing has a shape that depends on values."""
    predicted, drawn = predictions(batch, size=(32, 16)), targets(*[COUNTS] * batch)
    criterion = Criterion(CONFIG)
    criterion(predicted, drawn)  # makes its constants
    with Operators() as forward:
        total = criterion(predicted, drawn).total
    with Operators() as backward:
        total.backward()
    assert forward.counts.launches <= 125
    assert backward.counts.launches <= 60


def test_predictions_that_do_not_fit_are_reported() -> None:
    criterion, batch, predicted = Criterion(CONFIG), targets(COUNTS), predictions(1)
    with pytest.raises(PivotNetError, match="final_only=False"):
        criterion(dataclasses.replace(predicted, masks=None), batch)
    with pytest.raises(PivotNetError, match="2 line decoders"):
        criterion(dataclasses.replace(predicted, masks=predicted.masks[1:]), batch)
    with pytest.raises(PivotNetError, match="instance masks are .100, 50. cells large"):
        criterion(dataclasses.replace(predicted, semantic_logits=predicted.semantic_logits[..., :4]), batch)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_a_batch_is_the_mean_of_its_samples(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    predicted, drawn = predictions(batch), targets(*CRITERION_COUNTS[:batch])
    criterion = Criterion(CONFIG)
    result = criterion(predicted, drawn)
    result.total.backward()
    normaliser = class_normaliser(drawn.counts)
    monkeypatch.setattr(criterion_module, "class_normaliser", lambda counts: normaliser)  # the same for all
    terms: dict[str, float] = dict.fromkeys(TERMS, 0.0)
    for b in range(batch):
        one = slice(b, b + 1)
        alone = prediction_part(predicted, one)
        single = criterion(alone, target_part(drawn, one))
        (single.total / batch).backward()
        for name in TERMS:
            terms[name] += single.terms[name].item() / batch
        for name in FIELDS:
            expected = getattr(predicted, name).grad[:, one]
            torch.testing.assert_close(getattr(alone, name).grad, expected, rtol=1e-5, atol=1e-9)
    for name in TERMS:
        assert result.terms[name].item() == pytest.approx(terms[name], rel=1e-5)


def test_the_normaliser_is_the_mean_number_of_instances_but_at_least_one() -> None:
    counts = torch.tensor([[6, 0, 3], [3, 1, 0]], dtype=torch.int32)
    assert class_normaliser(counts).tolist() == [4.5, 1.0, 1.5]


def test_ranks_of_one_sample_equal_one_rank_of_all(tmp_path: Path) -> None:
    found = run_ranks(criterion_share, tmp_path)
    predicted, drawn = predictions(len(found)), targets(*CRITERION_COUNTS[: len(found)])
    result = Criterion(CONFIG)(predicted, drawn)
    result.total.backward()
    for name in TERMS:
        mean = sum(rank["terms"][name] for rank in found) / len(found)
        torch.testing.assert_close(mean, result.terms[name], rtol=1e-5, atol=0)
    for rank, saved in enumerate(found):  # ranks average their gradients
        for name, gradient in saved["gradients"].items():
            expected = getattr(predicted, name).grad[:, rank : rank + 1]
            torch.testing.assert_close(gradient / len(found), expected, rtol=1e-5, atol=1e-9)
