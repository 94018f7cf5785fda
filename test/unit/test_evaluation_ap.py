"""Chamfer distance, matching and average precision against numbers worked out by hand or by a plain formula."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from pivotnet.evaluation.ap import RECALLS, THRESHOLDS, accumulate, average_precision, greedy_match, sample_ap
from pivotnet.evaluation.chamfer import PixelSets, chamfer_distance, chamfer_matrix, pixel_sets

RESOLUTION = 0.15


def random_mask(seed: int, lines: int, size: tuple[int, int] = (60, 40)) -> np.ndarray:
    """An id mask of random walks; later lines overdraw earlier ones."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, np.uint8)
    for index in range(lines):
        walk = rng.integers(0, size) + np.cumsum(rng.integers(-1, 2, (rng.integers(1, 50), 2)), 0)
        inside = walk[((walk >= 0) & (walk < size)).all(1)]
        mask[inside[:, 0], inside[:, 1]] = index + 1
    return mask


def test_recalls_are_torchs_linspace() -> None:
    np.testing.assert_array_equal(RECALLS, torch.linspace(0.1, 1, 10).numpy())


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32])
def test_pixel_sets_are_the_pixels_of_each_id(kind: type) -> None:
    mask = np.stack([random_mask(seed, 6, (63, 41)) for seed in (3, 4)]).astype(kind) * 20
    mask[1, -1, -1] = np.iinfo(kind).max
    mask[0, 0, 0] = 1

    sets = pixel_sets(mask, RESOLUTION)

    lines = [(layer, line) for layer in range(2) for line in np.unique(mask[layer])[1:]]
    assert list(zip(sets.classes.tolist(), sets.ids.tolist())) == lines
    for index, (layer, line) in enumerate(lines):
        expected = np.argwhere(mask[layer] == line).astype(np.float32) * np.float32(RESOLUTION)
        np.testing.assert_array_equal(sets.metres(index), expected.astype(np.float64))


def test_chamfer_distance_of_parallel_lines() -> None:
    line = np.column_stack([np.arange(20.0), np.zeros(20)])

    assert chamfer_distance(line, line + [0, 3]) == pytest.approx(3)
    # of the longer line, ten points have the nearest at 1 to 10 metres
    longer = np.column_stack([np.arange(30.0), np.zeros(30)])
    assert chamfer_distance(line, longer) == pytest.approx((0 + 55 / 30) / 2)


def exact_matrix(first: PixelSets, second: PixelSets) -> np.ndarray:
    """Chamfer distances by the plain formula."""
    matrix = np.zeros((len(first), len(second)))
    for i in range(len(first)):
        for j in range(len(second)):
            one, other = first.metres(i), second.metres(j)
            pairs = np.sqrt(((one[:, None] - other) ** 2).sum(-1))
            matrix[i, j] = (pairs.min(1).mean() + pairs.min(0).mean()) / 2
    return matrix


@pytest.mark.parametrize("seed", range(8))
def test_chamfer_matrix_is_exact_where_it_is_compared(seed: int) -> None:
    first, second = (pixel_sets(random_mask(seed + k, 12)[None], RESOLUTION) for k in (0, 100))
    exact = exact_matrix(first, second)

    distances = chamfer_matrix(first, second, THRESHOLDS)

    near = exact < 1.5
    assert near.any() and not near.all()
    np.testing.assert_allclose(distances[near], exact[near], rtol=0, atol=1e-5)
    assert ((distances[~near] >= 1.5) & (distances[~near] <= exact[~near] + 1e-5)).all()
    np.testing.assert_array_equal(np.argsort(distances[near], kind="stable"), np.argsort(exact[near], kind="stable"))


def test_lines_of_two_classes_are_infinitely_far_apart() -> None:
    mask = np.zeros((2, 60, 40), np.uint8)
    mask[:, 10, 5:30] = 1

    distances = chamfer_matrix(pixel_sets(mask, RESOLUTION), pixel_sets(mask, RESOLUTION), THRESHOLDS)

    assert distances.tolist() == [[0, np.inf], [np.inf, 0]]


@pytest.mark.parametrize("offset", [(0, 1), (0, -1), (3, 0), (0, 10), (7, 7)])
def test_near_ties_are_decided_by_the_rounding_of_coordinates(offset: tuple[int, int]) -> None:
    # Four lines at the same distance in pixels; in float32 metres they differ by less than a micrometre.
    drawn, truth = np.zeros((400, 200), np.uint8), np.zeros((400, 200), np.uint8)
    for index in range(4):
        row, column = 20 + 90 * index, 50 + 20 * index
        truth[row : row + 30, column] = index + 1
        drawn[row + offset[0] : row + offset[0] + 30, column + offset[1]] = index + 1
    first, second = pixel_sets(drawn[None], RESOLUTION), pixel_sets(truth[None], RESOLUTION)

    distances = chamfer_matrix(first, second, THRESHOLDS)

    exact = exact_matrix(first, second)
    np.testing.assert_array_equal(distances[exact < 1.6], exact[exact < 1.6])
    assert (exact < 1.6).sum() == 4


def test_a_map_too_large_for_float32_is_exact_too() -> None:
    drawn, truth = np.zeros((4000, 4000), np.uint8), np.zeros((4000, 4000), np.uint8)
    truth[3990, 3000:3900] = 1
    drawn[3993, 3000:3900] = 1

    distances = chamfer_matrix(pixel_sets(drawn[None], RESOLUTION), pixel_sets(truth[None], RESOLUTION), THRESHOLDS)

    assert distances[0, 0] == pytest.approx(0.45, abs=1e-4)


def test_matching_is_greedy_and_ties_go_to_the_lower_indices() -> None:
    distances = np.array([[0.4, 0.3, 0.9], [0.3, 0.1, 0.3], [0.3, 0.2, 0.3]])

    predictions, labels, at = greedy_match(distances, 0.5)

    # 0.1 takes (1, 1); then (2, 0) and (2, 2) tie at 0.3; what is left is (0, 2) at 0.9, too far
    assert list(zip(predictions, labels)) == [(1, 1), (2, 0)]
    assert at.tolist() == [np.float32(0.1), np.float32(0.3)]


def test_matching_nothing() -> None:
    for shape in ((0, 0), (0, 3), (3, 0), (2, 3)):
        assert [len(part) for part in greedy_match(np.ones(shape), 0.5)] == [0, 0, 0]


def test_a_pair_at_the_threshold_is_no_match() -> None:
    assert len(greedy_match(np.array([[0.5]]), 0.5)[0]) == 0
    # 0.2 in float32 is above 0.2; what rounds to it is no match either
    assert len(greedy_match(np.array([[0.2 - 1e-12]]), 0.2)[0]) == 0
    assert len(greedy_match(np.array([[0.2 - 1e-6]]), 0.2)[0]) == 1


def ap_of(matched: Sequence[int], scores: Sequence[float], num_labels: int) -> np.ndarray:
    """AP at each threshold of one class; predictions ``matched`` were matched in that order, at 0.3 m."""
    found = np.full((1, len(scores)), np.inf, np.float32)
    rank = np.zeros(found.shape, np.int64)
    found[0, matched] = 0.3
    rank[0, matched] = range(len(matched))
    return average_precision(found, rank, np.array([scores], np.float32), np.array([num_labels]))[0]


def test_ap_sorts_by_ascending_confidence() -> None:
    # The one match has the highest confidence and therefore comes last: precision 1/2 at recall 1.
    assert ap_of([0], [0.9, 0.3], 1).tolist() == [0, 0.5, 0.5, 0.5]
    assert ap_of([1], [0.9, 0.3], 1).tolist() == [0, 1, 1, 1]


def test_on_equal_confidence_matches_come_first() -> None:
    assert ap_of([2], [0.5] * 3, 1).tolist() == [0, 1, 1, 1]


def test_precision_is_made_monotone() -> None:
    # In ascending order: miss, hit, hit. Precision 0, 1/2, 2/3 becomes 2/3 at every recall.
    assert ap_of([1, 2], [0.1, 0.2, 0.3], 2)[1:] == pytest.approx([2 / 3] * 3)


def test_a_class_of_fewer_predictions_is_filled_up() -> None:
    found = np.array([[np.inf, 0.3, 0.3], [0.3, np.inf, np.inf]], np.float32)
    scores = np.array([[0.1, 0.2, 0.3], [0.4, np.inf, np.inf]], np.float32)

    both = average_precision(found, np.array([[0, 0, 1], [2, 0, 0]]), scores, np.array([2, 4]))

    assert both[0].tolist() == ap_of([1, 2], [0.1, 0.2, 0.3], 2).tolist()
    assert both[1].tolist() == ap_of([0], [0.4], 4).tolist()


def test_a_recall_of_seven_tenths_misses_its_point() -> None:
    assert ap_of(range(7), np.linspace(0.1, 0.9, 7), 10)[1:] == pytest.approx([0.6] * 3)
    assert ap_of(range(8), np.linspace(0.1, 0.9, 8), 10)[1:] == pytest.approx([0.8] * 3)


def test_ap_is_zero_if_one_side_is_empty_and_nothing_if_both_are() -> None:
    none, some = np.zeros((1, 60, 40), np.uint8), random_mask(0, 3)[None]

    assert np.isnan(sample_ap(none, np.zeros(0), none, RESOLUTION)).all()
    assert sample_ap(none, np.zeros(0), some, RESOLUTION).tolist() == [[0, 0, 0, 0]]
    assert sample_ap(some, np.full(3, 0.5), none, RESOLUTION).tolist() == [[0, 0, 0, 0]]
    # whatever another class has
    both = sample_ap(np.stack([none[0], some[0]]), np.full(3, 0.5), np.stack([some[0], some[0]]), RESOLUTION)
    assert both.tolist() == [[0, 0, 0, 0], [1, 1, 1, 1]]


def test_a_perfect_prediction_has_ap_one() -> None:
    mask = np.stack([random_mask(seed, 4) for seed in range(3)])

    assert (sample_ap(mask, np.linspace(0.5, 0.9, 4), mask, RESOLUTION) == 1).all()


def test_more_than_99_predictions_are_scored() -> None:
    mask = np.zeros((1, 400, 200), np.uint16)
    mask[0, ::2, 10:40] = np.arange(1, 201)[:, None] + 100
    truth = np.zeros((1, 400, 200), np.uint8)
    truth[0, 0, 10:40] = 1

    row = sample_ap(mask, np.linspace(0.9, 0.5, 300), truth, RESOLUTION)

    # the nearest of 200 predictions has the highest confidence of those drawn, and so comes last
    np.testing.assert_allclose(row[0], 1 / 200, rtol=1e-6)


def test_ap_is_averaged_over_the_samples_that_have_a_line() -> None:
    per_sample = np.full((3, 2, 4), np.nan, np.float32)
    per_sample[0, 0] = 0.25
    per_sample[2, 0] = 0.75

    result = accumulate(per_sample)

    assert result.counts.tolist() == [2, 0]
    assert result.samples == 3
    assert (result.ap[0] == 0.5).all()
    assert np.isnan(result.ap[1]).all()
