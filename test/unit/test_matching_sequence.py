"""The dynamic programme against every strictly increasing assignment, tried one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pivotnet.criterion.sequence import distances, match_points, sequence_costs


def assignments(length: int, predicted: int) -> list[tuple[int, ...]]:
    """All strictly increasing assignments of target points that use the first and the last predicted point."""
    middle = itertools.combinations(range(1, predicted - 1), length - 2)
    return [(0, *chosen, predicted - 1) for chosen in middle]


def brute_force(cost: np.ndarray, length: int) -> tuple[float, tuple[int, ...]]:
    """Smallest sum and its assignment for one pair [n, P]; ties: the earliest points, the last target point's first."""
    sums = {found: sum(float(cost[i, j]) for i, j in enumerate(found)) for found in assignments(length, cost.shape[1])}
    best = min(sums.values())
    return best, min((found for found in sums if sums[found] == best), key=lambda found: found[::-1])


def random_costs(rng: np.random.Generator, shape: tuple[int, ...], ties: bool) -> np.ndarray:
    cost = rng.random(shape).astype(np.float32)
    return (cost * 3).round() / np.float32(4) if ties else cost  # quarters: sums are exact, and often equal


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("predicted", [2, 3, 5, 8])
def test_equal_to_brute_force(predicted: int, ties: bool) -> None:
    rng = np.random.default_rng(predicted + 100 * ties)
    for _ in range(10):
        pairs, points = int(rng.integers(1, 12)), int(rng.integers(2, predicted + 1))
        lengths = rng.integers(2, points + 1, pairs)
        cost = random_costs(rng, (points, predicted, pairs), ties)
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


@pytest.mark.parametrize("predicted", [10, 30])
def test_the_path_adds_up_to_the_smallest_sum(predicted: int) -> None:
    rng = np.random.default_rng(predicted)
    lengths = rng.integers(2, predicted + 1, 200)
    cost = rng.random((predicted, predicted, 200), np.float32)
    sums, paths = match_points(cost, lengths)
    for k, length in enumerate(lengths):
        path = paths[k, :length]
        assert path[0] == 0 and path[-1] == predicted - 1 and (np.diff(path) > 0).all()
        assert cost[np.arange(length), path, k].astype(np.float64).sum() == pytest.approx(sums[k], rel=1e-12)
    # without end weights the sequence cost is the same sum, divided by the length
    np.testing.assert_allclose(sequence_costs(cost, lengths, 0) * lengths, sums, rtol=1e-12)


def test_no_pairs() -> None:
    none = np.zeros((2, 10, 0), np.float32)
    assert sequence_costs(none, np.zeros(0, int), 5).shape == (0,)
    assert match_points(none, np.zeros(0, int))[1].shape == (0, 2)


def test_distances_are_l1_in_float32() -> None:
    rng = np.random.default_rng(0)
    target, predicted = rng.random((4, 2, 1, 3), np.float32), rng.random((6, 2, 5, 3), np.float32)
    apart = distances(target, predicted)
    assert apart.shape == (4, 6, 5, 3) and apart.dtype == np.float32
    for i, j, q, k in np.ndindex(apart.shape):
        rows, columns = np.abs(target[i, :, 0, k] - predicted[j, :, q, k])
        assert apart[i, j, q, k] == rows + columns
