"""What a batch means: the mean over its samples, on one rank or on several."""

from __future__ import annotations

from pathlib import Path

import criterion_rank
import pytest
import torch
import torch.multiprocessing as multiprocessing
from criterion_rank import COUNTS
from support.random_targets import CONFIG, FIELDS, prediction_part, predictions, target_part, targets

from pivotnet.criterion import criterion as criterion_module
from pivotnet.criterion.criterion import TERMS, Criterion
from pivotnet.criterion.losses import instance_scale


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_a_batch_is_the_mean_of_its_samples(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    predicted, drawn = predictions(batch), targets(*COUNTS[:batch])
    criterion = Criterion(CONFIG)
    result = criterion(predicted, drawn)
    result.total.backward()
    scale = instance_scale(drawn.counts)
    monkeypatch.setattr(criterion_module, "instance_scale", lambda counts: scale)  # the same normaliser for all
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
    torch.testing.assert_close(instance_scale(counts), torch.tensor([1 / 4.5, 1.0, 1 / 1.5]))


def test_ranks_of_one_sample_equal_one_rank_of_all(tmp_path: Path) -> None:
    ranks = 2
    multiprocessing.start_processes(criterion_rank.work, (ranks, str(tmp_path)), nprocs=ranks, start_method="spawn")
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(ranks)]
    predicted, drawn = predictions(ranks), targets(*COUNTS[:ranks])
    result = Criterion(CONFIG)(predicted, drawn)
    result.total.backward()
    for name in TERMS:
        mean = sum(rank["terms"][name] for rank in found) / ranks
        torch.testing.assert_close(mean, result.terms[name], rtol=1e-5, atol=0)
    for rank, saved in enumerate(found):  # ranks average their gradients
        for name, gradient in saved["gradients"].items():
            expected = getattr(predicted, name).grad[:, rank : rank + 1]
            torch.testing.assert_close(gradient / ranks, expected, rtol=1e-5, atol=1e-9)
