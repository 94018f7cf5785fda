"""Matching at its edges; what the criterion needs, gives and costs; what a batch means. Numbers: test/golden."""

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.small import CONFIG, FIELDS, predictions, target_part, targets
from torch.utils._python_dispatch import TorchDispatchMode

from pivotnet.audit.counts import launches
from pivotnet.criterion import criterion as criterion_module
from pivotnet.criterion.criterion import TERMS, Criterion, class_normaliser
from pivotnet.criterion.masks import all_mask_losses, upsample
from pivotnet.criterion.matching import ClassMatches, device_costs, match
from pivotnet.errors import PivotNetError
from pivotnet.structures import Predictions, Targets

COUNTS = (6, 3, 4)
BATCH = (COUNTS, (1, 0, 2), (0, 0, 0), (3, 5, 17))


def run_matching(predicted: Predictions, batch: Targets) -> list[ClassMatches]:
    losses = all_mask_losses(predicted.masks, batch.masks.float(), CONFIG.map.num_queries)
    costs = device_costs(predicted.object_logits, losses, CONFIG.criterion).numpy()
    return match(costs, predicted.points.detach().numpy(), batch, CONFIG.criterion, CONFIG.map)


def test_mask_losses_of_extreme_logits_are_finite():
    logits, target = torch.tensor([-200.0, 200.0]).repeat(8).view(1, 1, 1, 4, 4), torch.zeros(1, 1, 1, 4, 4)
    assert all_mask_losses(logits, target, (1,)).item() == pytest.approx(100 + 1 - 1 / 9)


def test_more_instances_than_queries_leave_some_unmatched():
    matches = run_matching(predictions(1), targets((2, 1, 18)))
    for d in range(3):
        own = matches[2].decoder == d
        assert sorted(matches[2].query[own]) == list(range(15))
        assert len(set(matches[2].instance[own])) == 15


def test_predictions_that_are_not_finite_are_still_matched():
    """The loss reports them; matching must not raise before."""
    predicted, batch = predictions(1), targets((3, 2, 1))
    with torch.no_grad():
        predicted.points[0, 0, :50] = float("nan")
        predicted.masks[1, 0, 3] = float("inf")
    assert [len(found.query) for found in run_matching(predicted, batch)] == [9, 6, 3]


def test_no_instances_give_zeros_of_the_whole_graph():
    predicted, batch = predictions(1, size=(32, 16)), targets((0, 0, 0))
    result = Criterion(CONFIG)(predicted, batch)
    result.total.backward()
    assert tuple(result.terms) == TERMS
    matched = {name: result.terms.pop(name).item() for name in TERMS if name not in ("ins_obj_loss", "sem_msk_loss")}
    assert set(matched.values()) == {0.0}
    assert result.total.item() == pytest.approx(sum(term.item() for term in result.terms.values()))
    for name in FIELDS:
        assert bool(getattr(predicted, name).grad.any()) == (name in ("object_logits", "semantic_logits")), name


@pytest.mark.parametrize("source, size", [((8, 6), (20, 10)), ((5, 7), (5, 9)), ((1, 3), (4, 1)), ((9, 9), (4, 3))])
def test_upsampling_and_its_gradient_are_those_of_interpolate(source, size):
    grids = torch.randn(3, *source, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = F.interpolate(grids[None], size=size, mode="bilinear", align_corners=True)[0]
    found = upsample(grids, size)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    outer = torch.randn(3, *size, generator=torch.Generator().manual_seed(1))
    ours, wanted = (torch.autograd.grad((result * outer).sum(), grids)[0] for result in (found, expected))
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-4)


class Launches(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += launches(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("batch", [(COUNTS,), (COUNTS, (1, 0, 1), (0, 2, 0))])
def test_few_operators(batch):
    """The network's decoders count, not samples, instances or points."""
    criterion, predicted, drawn = Criterion(CONFIG), predictions(len(batch), size=(32, 16)), targets(*batch)
    criterion(predicted, drawn)  # makes its constants
    with Launches() as counter:
        criterion(predicted, drawn).total.backward()
    assert counter.count <= 125


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda predicted: {"masks": None}, "final_only=False"),
        (lambda predicted: {"semantic_logits": predicted.semantic_logits[..., :4]}, "masks are .100, 50. cells large"),
    ],
)
def test_predictions_that_do_not_fit_are_reported(change, message):
    predicted = predictions(1)
    with pytest.raises(PivotNetError, match=message):
        Criterion(CONFIG)(dataclasses.replace(predicted, **change(predicted)), targets(COUNTS))


def test_a_batch_is_the_mean_of_its_samples(monkeypatch):
    batch = len(BATCH)
    predicted, drawn = predictions(batch), targets(*BATCH)
    criterion = Criterion(CONFIG)
    result = criterion(predicted, drawn)
    result.total.backward()
    normaliser = class_normaliser(drawn.counts)
    monkeypatch.setattr(criterion_module, "class_normaliser", lambda counts: normaliser)  # the same for all
    terms: dict[str, float] = dict.fromkeys(TERMS, 0.0)
    for b in range(batch):
        one = slice(b, b + 1)
        own = {name: getattr(predicted, name)[:, one].detach().clone().requires_grad_() for name in FIELDS}
        alone = Predictions(**own)
        single = criterion(alone, target_part(drawn, one))
        (single.total / batch).backward()
        for name in TERMS:
            terms[name] += single.terms[name].item() / batch
        for name in FIELDS:
            expected = getattr(predicted, name).grad[:, one]
            torch.testing.assert_close(getattr(alone, name).grad, expected, rtol=1e-5, atol=1e-9)
    for name in TERMS:
        assert result.terms[name].item() == pytest.approx(terms[name], rel=1e-5)


def test_the_normaliser_is_the_mean_number_of_instances_but_at_least_one():
    counts = torch.tensor([[6, 0, 3], [3, 1, 0]], dtype=torch.int32)
    assert class_normaliser(counts).tolist() == [4.5, 1.0, 1.5]
