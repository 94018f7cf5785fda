"""The sampler against the rule written out: one shuffled stream, sliced by rank."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from pivotnet.data.sampler import EvaluationSampler, TrainingSampler, steps_per_epoch


def stream(size: int, seed: int, length: int) -> list[int]:
    """The first items of upstream's infinite stream."""
    generator = torch.Generator().manual_seed(seed)
    items: list[int] = []
    while len(items) < length:
        items += torch.randperm(size, generator=generator).tolist()
    return items[:length]


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_rank_slices_of_one_stream(ranks):
    for rank in range(ranks):
        sampler = TrainingSampler(11, 1, seed=5, rank=rank, world_size=ranks, stop_step=20)
        expected = list(islice(stream(11, 5, 20 * ranks), rank, None, ranks))
        assert [batch[0] for batch in sampler] == expected


@pytest.mark.parametrize("start", [0, 1, 7, 11, 25])
def test_starts_at_any_step(start):
    whole = list(TrainingSampler(7, 2, seed=1, rank=1, world_size=3, stop_step=30))
    rest = TrainingSampler(7, 2, seed=1, rank=1, world_size=3, start_step=start, stop_step=30)
    assert list(rest) == whole[start:]
    assert len(rest) == 30 - start


def test_ranks_times_batch_is_what_counts():
    one = [sorted(batch) for batch in TrainingSampler(9, 6, stop_step=10)]
    ranks = [list(TrainingSampler(9, 2, rank=rank, world_size=3, stop_step=10)) for rank in range(3)]
    assert [sorted(a + b + c) for a, b, c in zip(*ranks)] == one


@pytest.mark.parametrize("size, ranks, batch", [(10, 3, 2), (1, 2, 4), (16, 2, 1)])
def test_evaluation_has_no_duplicates(size, ranks, batch):
    seen = []
    for rank in range(ranks):
        sampler = EvaluationSampler(size, batch, rank=rank, world_size=ranks)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        seen += [index for indices in batches for index in indices]
    assert sorted(seen) == list(range(size))


def test_epoch_of_nuscenes_on_eight_cards():
    assert steps_per_epoch(28130, 1, 8) == 3517
    assert steps_per_epoch(16, 4, 2) == 2
