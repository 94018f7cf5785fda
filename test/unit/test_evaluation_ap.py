"""Chamfer distance, matching and average precision against numbers worked out by hand or by a plain formula.

test/golden has upstream's average precision of 24 samples, and its recalls.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pivotnet.evaluation.ap import average_precision, greedy_match, sample_ap
from pivotnet.evaluation.chamfer import chamfer_matrix, pixel_sets

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


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_pixel_sets_are_the_pixels_of_each_id(dtype: type) -> None:
    mask = np.stack([random_mask(seed, 6, (63, 41)) for seed in (3, 4)]).astype(dtype) * 20
    mask[1, -1, -1] = np.iinfo(dtype).max
    mask[0, 0, 0] = 1

    sets = pixel_sets(mask, RESOLUTION)

    lines = [(layer, line) for layer in range(2) for line in np.unique(mask[layer])[1:]]
    assert list(zip(sets.labels.tolist(), sets.ids.tolist())) == lines
    for points, (layer, line) in zip(sets.lines(), lines):
        expected = np.argwhere(mask[layer] == line).astype(np.float32) * np.float32(RESOLUTION)
        np.testing.assert_array_equal(points, expected.astype(np.float64))


def moved_lines(offset: tuple[int, int]) -> list[np.ndarray]:
    """Two masks of four lines; the second's are moved. In pixels the distances tie, in float32 metres they do not."""
    masks = [np.zeros((1, 400, 200), np.uint8) for _ in range(2)]
    for index in range(4):
        for mask, (down, right) in zip(masks, ((0, 0), offset)):
            row, column = 20 + 90 * index + down, 50 + 20 * index + right
            mask[0, row : row + 30, column] = index + 1
    return masks


@pytest.mark.parametrize(
    "masks",
    [[random_mask(seed + k, 12)[None] for k in (0, 100)] for seed in range(2)]
    + [moved_lines(offset) for offset in ((0, 1), (0, -1), (3, 0), (7, 7))],
)
def test_chamfer_distances_below_the_limit_are_exact(masks: list[np.ndarray]) -> None:
    first, second = (pixel_sets(mask, RESOLUTION) for mask in masks)
    pairs = [[np.linalg.norm(a[:, None] - b, axis=-1) for b in second.lines()] for a in first.lines()]
    exact = np.array([[(pair.min(1).mean() + pair.min(0).mean()) / 2 for pair in row] for row in pairs], np.float32)

    distances = chamfer_matrix(first, second, 1.6)

    near = exact < 1.6
    assert near.any() and not near.all()
    np.testing.assert_array_equal(distances[near].astype(np.float32), exact[near])
    assert (distances[~near] >= 1.6).all()


@pytest.mark.parametrize(
    ("distance", "threshold", "matches"), [(0.5, 0.5, 0), (0.2 - 1e-12, 0.2, 0), (0.2 - 1e-6, 0.2, 1)]
)
def test_a_pair_at_the_threshold_in_float32_is_no_match(distance: float, threshold: float, matches: int) -> None:
    assert len(greedy_match(np.array([[distance]]), threshold)[0]) == matches


@pytest.mark.parametrize(
    ("matched", "scores", "num_true", "expected"),
    [
        # ascending confidence: the one match comes last, with precision 1/2 at recall 1; or first
        ([0], [0.9, 0.3], 1, 0.5),
        ([1], [0.9, 0.3], 1, 1),
        # on equal confidence matches come first
        ([2], [0.5] * 3, 1, 1),
        # miss, hit, hit: precision 0, 1/2, 2/3 becomes 2/3 at every recall
        ([1, 2], [0.1, 0.2, 0.3], 2, 2 / 3),
        # a recall of exactly 7/10 misses its point
        (range(7), np.linspace(0.1, 0.9, 7), 10, 0.6),
        (range(8), np.linspace(0.1, 0.9, 8), 10, 0.8),
        # more predictions than upstream's 99: the nearest of 200 has the highest confidence, and so comes last
        ([0], np.linspace(0.9, 0.5, 200), 1, 1 / 200),
    ],
)
def test_average_precision(matched: Sequence[int], scores: Sequence[float], num_true: int, expected: float) -> None:
    """Predictions ``matched`` were matched in that order, at 0.3 m; a class of fewer predictions is padded."""
    found = np.full((2, len(scores) + 3), np.inf, np.float32)
    rank = np.zeros(found.shape, np.int64)
    confidence = np.full(found.shape, np.inf, np.float32)
    found[0, matched] = 0.3
    rank[0, matched] = range(len(matched))
    confidence[0, : len(scores)] = scores

    ap = average_precision(found, rank, confidence, np.array([num_true, 1]))

    assert ap.ravel().tolist() == pytest.approx([0] + [expected] * 3 + [0] * 4)


def test_ap_is_zero_if_predictions_or_truth_are_empty_and_nan_if_both_are() -> None:
    none, some = np.zeros((1, 60, 40), np.uint8), random_mask(0, 3)[None]

    assert np.isnan(sample_ap(none, np.zeros(0), none, RESOLUTION)).all()
    assert sample_ap(none, np.zeros(0), some, RESOLUTION).tolist() == [[0, 0, 0, 0]]
    # whatever another class has
    both = sample_ap(np.stack([none[0], some[0]]), np.full(3, 0.5), np.stack([some[0], some[0]]), RESOLUTION)
    assert both.tolist() == [[0, 0, 0, 0], [1, 1, 1, 1]]


def test_large_lines_are_compared_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask that a file fills with one line would else take the square of its pixels."""
    rng = np.random.default_rng(0)
    masks = [np.where(rng.random((3, 40, 20)) < 0.3, rng.integers(1, 4, (3, 40, 20)), 0) for _ in range(2)]
    first, second = (pixel_sets(mask, 0.15) for mask in masks)
    whole = chamfer_matrix(first, second, 9.0)
    monkeypatch.setattr("pivotnet.evaluation.chamfer._MOST_DISTANCES", 10)
    np.testing.assert_array_equal(chamfer_matrix(first, second, 9.0), whole)
