"""The criterion as a whole: what it needs, gives and costs."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.random_targets import CONFIG, FIELDS, MAP, gradients, predictions, sample, targets
from torch.utils._python_dispatch import TorchDispatchMode

from pivotnet.criterion import criterion as criterion_module
from pivotnet.criterion.criterion import TERMS, Criterion
from pivotnet.data.targets import build_targets
from pivotnet.device import all_rows_at_once
from pivotnet.errors import PivotNetError

COUNTS = (6, 3, 4)


def test_terms_add_up_to_the_total() -> None:
    result = Criterion(CONFIG)(predictions(2), targets(COUNTS, (2, 0, 1)))
    assert tuple(result.terms) == TERMS
    assert all(term.dtype == torch.float32 and not term.requires_grad for term in result.terms.values())
    assert result.total.item() == pytest.approx(sum(term.item() for term in result.terms.values()), rel=1e-6)


def test_gradient_of_the_masks_is_that_of_autograd() -> None:
    """The hand-written gradient against autograd through the plain formulas, in float64."""
    predicted, batch = predictions(1), targets((2, 1, 2))
    result = Criterion(CONFIG)(predicted, batch)
    result.total.backward()
    masks = predicted.masks.detach().double().requires_grad_()
    semantic = predicted.semantic_logits.detach().double().requires_grad_()
    weights, total = CONFIG.criterion, torch.zeros((), dtype=torch.float64)

    def loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        chance = logits.sigmoid()
        dice = 1 - (2 * (chance * target).sum() + 1) / (chance.sum() + target.sum() + 1)
        return F.binary_cross_entropy_with_logits(logits, target) + dice

    first = 0
    for c, queries in enumerate(MAP.num_queries):
        found = result.matches[c]
        scale = 5 / (3 * 3 * max(1, int(batch.counts[0, c])))
        for d, query, instance in zip(found.decoder, found.query, found.instance):
            target = batch.masks[0, c, instance].double()
            total = total + weights.decoder_weights[d] * scale * loss(masks[d, 0, first + query], target)
        for e, weight in enumerate(weights.bev_weights):
            total = total + 3 * weight / 6 * loss(semantic[e, 0, c, 1], batch.semantic[0, c].double())
        first += queries
    total.backward()
    expected = result.terms["ins_msk_loss"] + result.terms["sem_msk_loss"]
    assert expected.item() == pytest.approx(total.item(), rel=1e-6)
    torch.testing.assert_close(predicted.masks.grad.double(), masks.grad, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(predicted.semantic_logits.grad.double(), semantic.grad, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("counts", [(0, 0, 0), (3, 0, 2), (0, 1, 0)])
def test_empty_classes_give_zeros_of_the_whole_graph(counts: tuple[int, int, int]) -> None:
    predicted = predictions(1)
    result = Criterion(CONFIG)(predicted, targets(counts))
    result.total.backward()
    for name, gradient in gradients(predicted).items():
        assert gradient is not None, f"{name} is not part of the graph"
        assert gradient.isfinite().all()
    if not any(counts):
        for name in ("ins_msk_loss", "pts_loss", "collinear_pts_loss", "pt_logits_loss"):
            assert result.terms[name].item() == 0
        for name in ("points", "point_logits", "masks"):
            assert not getattr(predicted, name).grad.any()
    assert result.terms["ins_obj_loss"].item() > 0
    assert result.terms["sem_msk_loss"].item() > 0
    first = 0
    for count, queries, size in zip(counts, MAP.num_queries, MAP.max_points):
        own = predicted.points.grad[:, :, first : first + queries * size]
        assert bool(own.any()) == bool(count)
        first += queries * size


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


def test_instances_of_one_point_count_for_nothing() -> None:
    mask, points, lengths = sample(0, (3, 0, 1), lengths=(4, 1, 6))
    keep = [0, 2]
    without = ({**points, 0: points[0][keep]}, {**lengths, 0: lengths[0][keep]})
    # its pixels are background for the instances, so give both the masks that the ids show
    both = [build_targets([one], CONFIG) for one in [(mask, points, lengths), (mask, *without)]]
    assert both[0].counts.tolist() == both[1].counts.tolist() == [[2, 0, 1]]
    same = dataclasses.replace(both[1], masks=both[0].masks)
    first, second = (Criterion(CONFIG)(predictions(1), t).total for t in (both[0], same))
    assert first.item() == second.item()


def test_masks_of_the_bev_grid_are_upsampled() -> None:
    """Low-resolution logits give the loss and gradients of the same logits upsampled beforehand."""
    batch = targets(COUNTS, (1, 0, 2))
    low, full = predictions(2), predictions(2)
    for name, axes in (("masks", 2), ("semantic_logits", 3)):
        shape = (*getattr(low, name).shape[:-2], 32, 16)
        grid = torch.randn(shape, generator=torch.Generator().manual_seed(axes)).requires_grad_()
        setattr(low, name, grid)
        twin = grid.detach().clone().requires_grad_()
        up = F.interpolate(twin.flatten(0, -3)[None], size=CONFIG.mask_size, mode="bilinear", align_corners=True)
        setattr(full, name, up.view(*shape[:-2], *CONFIG.mask_size))
        setattr(full, f"_{name}", twin)
    results = [Criterion(CONFIG)(predicted, batch) for predicted in (low, full)]
    for result in results:
        result.total.backward()
    assert results[0].total.item() == pytest.approx(results[1].total.item(), rel=1e-6)
    for name in ("masks", "semantic_logits"):
        torch.testing.assert_close(getattr(low, name).grad, getattr(full, f"_{name}").grad, rtol=1e-4, atol=1e-8)


def test_bfloat16_predictions_under_autocast_are_computed_in_float32() -> None:
    half, batch = predictions(2, dtype=torch.bfloat16), targets(COUNTS, (2, 1, 0))
    single = predictions(2)
    with torch.no_grad():
        for name in FIELDS:
            getattr(single, name).copy_(getattr(half, name).float())
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


def test_what_is_carried_comes_back_in_the_same_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []
    original = criterion_module.to_host
    monkeypatch.setattr(criterion_module, "to_host", lambda tensors: copies.append(1) or original(tensors))
    criterion, predicted, batch = Criterion(CONFIG), predictions(1), targets(COUNTS)
    carry = torch.tensor([[1.5, float("nan")], [3.0, 4.0]])
    carried = criterion(predicted, batch, carry).carried
    assert carried.shape == (2, 2)
    torch.testing.assert_close(torch.from_numpy(carried), carry, rtol=0, atol=0, equal_nan=True)
    assert criterion(predicted, batch).carried is None
    assert len(copies) == 2  # one a step


class Operators(TorchDispatchMode):
    """Counts operators and keeps the types of what they return."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            self.names[function.overloadpacket.__name__] += 1
        self.types |= {r.dtype for r in torch.utils._pytree.tree_flatten(result)[0] if isinstance(r, torch.Tensor)}
        return result


@pytest.mark.parametrize("batch", [1, 3])
def test_few_operators_and_no_reads_on_the_device(batch: int) -> None:
    """The network's decoders count, not samples, instances or points; nothing has a shape that depends on values."""
    predicted, drawn = predictions(batch), targets(*[COUNTS] * batch)
    criterion = Criterion(CONFIG)
    criterion(predicted, drawn)  # makes its constants
    with all_rows_at_once(), Operators() as forward:
        total = criterion(predicted, drawn).total
    with Operators() as backward:
        total.backward()
    for mode in (forward, backward):
        assert torch.float64 not in mode.types
        reads = {"_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "masked_select", "index", "equal"}
        assert not reads & set(mode.names)
    assert sum(forward.names.values()) <= 140
    assert sum(backward.names.values()) <= 50


def test_predictions_that_do_not_fit_are_told() -> None:
    criterion, batch = Criterion(CONFIG), targets(COUNTS)
    predicted = predictions(1)
    with pytest.raises(PivotNetError, match="final_only=False"):
        criterion(dataclasses.replace(predicted, masks=None), batch)
    with pytest.raises(PivotNetError, match="2 line decoders"):
        criterion(dataclasses.replace(predicted, masks=predicted.masks[1:]), batch)
