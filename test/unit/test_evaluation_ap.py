"""Chamfer distance, matching, average precision and its table against numbers worked out by hand or by a plain formula.

test/golden has upstream's average precision of 24 samples, its recalls and its table.
"""

import json

import numpy as np
import pytest

from pivotnet.evaluation.ap import ApResult, average_precision, chamfer_matrix, greedy_match, pixel_sets, sample_ap
from pivotnet.evaluation.score import format_table, write_table

RESOLUTION = 0.15


def random_mask(seed, lines, size=(60, 40)):
    """An id mask of random walks; later lines overdraw earlier ones."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, np.uint8)
    for index in range(lines):
        walk = rng.integers(0, size) + np.cumsum(rng.integers(-1, 2, (rng.integers(1, 50), 2)), 0)
        inside = walk[((walk >= 0) & (walk < size)).all(1)]
        mask[inside[:, 0], inside[:, 1]] = index + 1
    return mask


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_pixel_sets_are_the_pixels_of_each_id(dtype):
    mask = np.stack([random_mask(seed, 6, (63, 41)) for seed in (3, 4)]).astype(dtype) * 20
    mask[1, -1, -1] = np.iinfo(dtype).max
    mask[0, 0, 0] = 1
    sets = pixel_sets(mask, RESOLUTION)
    lines = [(layer, line) for layer in range(2) for line in np.unique(mask[layer])[1:]]
    assert list(zip(sets.labels.tolist(), sets.ids.tolist())) == lines
    for points, (layer, line) in zip(sets.lines(), lines):
        expected = np.argwhere(mask[layer] == line).astype(np.float32) * np.float32(RESOLUTION)
        np.testing.assert_array_equal(points, expected.astype(np.float64))


def moved_lines(offset):
    """Two masks of four lines; the second's are moved. In pixels the distances tie, in float32 metres they do not."""
    masks = np.zeros((2, 1, 400, 200), np.uint8)
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
def test_chamfer_distances_below_the_limit_are_exact(masks, monkeypatch):
    """Also where lines are too large for a matrix of distances."""
    first, second = (pixel_sets(mask, RESOLUTION) for mask in masks)
    pairs = [[np.linalg.norm(a[:, None] - b, axis=-1) for b in second.lines()] for a in first.lines()]
    exact = np.array([[(pair.min(1).mean() + pair.min(0).mean()) / 2 for pair in row] for row in pairs], np.float32)
    distances = chamfer_matrix(first, second, 1.6)
    near = exact < 1.6
    assert near.any() and not near.all()
    np.testing.assert_array_equal(distances[near].astype(np.float32), exact[near])
    assert (distances[~near] >= 1.6).all()
    monkeypatch.setattr("pivotnet.evaluation.ap._MOST_DISTANCES", 10)
    np.testing.assert_array_equal(chamfer_matrix(first, second, 1.6), distances)


@pytest.mark.parametrize(
    ("distance", "threshold", "matches"), [(0.5, 0.5, 0), (0.2 - 1e-12, 0.2, 0), (0.2 - 1e-6, 0.2, 1)]
)
def test_a_pair_at_the_threshold_in_float32_is_no_match(distance, threshold, matches):
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
def test_average_precision(matched, scores, num_true, expected):
    """Predictions ``matched`` were matched in that order, at 0.3 m; a class of fewer predictions is padded."""
    found, confidence = np.full((2, 2, len(scores) + 3), np.inf, np.float32)
    rank = np.zeros(found.shape, np.int64)
    found[0, matched] = 0.3
    rank[0, matched] = range(len(matched))
    confidence[0, : len(scores)] = scores
    ap = average_precision(found, rank, confidence, np.array([num_true, 1]))
    assert ap.ravel().tolist() == pytest.approx([0] + [expected] * 3 + [0] * 4)


def test_ap_is_zero_if_predictions_or_truth_are_empty_and_nan_if_both_are():
    none, some = np.zeros((1, 60, 40), np.uint8), random_mask(0, 3)[None]
    assert np.isnan(sample_ap(none, np.zeros(0), none, RESOLUTION)).all()
    assert sample_ap(none, np.zeros(0), some, RESOLUTION).tolist() == [[0, 0, 0, 0]]
    # whatever another class has
    both = sample_ap(np.stack([none[0], some[0]]), np.full(3, 0.5), np.stack([some[0], some[0]]), RESOLUTION)
    assert both.tolist() == [[0, 0, 0, 0], [1, 1, 1, 1]]


def test_the_table_of_a_class_that_no_sample_has(tmp_path):
    sums = np.array([[1, 2, 3, 4], [0, 0, 0, 0], [0.8, 0.8, 0.8, 0.8]], np.float32)
    result = ApResult(sums, np.array([4, 0, 4]), samples=5)
    (tmp_path / "run.json").write_text('{"checkpoint": "a.pth", "fingerprint": "0", "preset": "swint"}')
    write_table(tmp_path / "ap.json", result, "val", tmp_path)
    content = json.loads((tmp_path / "ap.json").read_text())
    divider, crossing, boundary = content["classes"].values()
    assert (content["split"], content["checkpoint"], content["samples"]) == ("val", "a.pth", 5)
    assert divider["AP"] == {"0.2": 0.25, "0.5": 0.5, "1.0": 0.75, "1.5": 1.0} and boundary["samples"] == 4
    assert divider["percent"]["mAP_easy"] == 75.0
    assert crossing["AP"]["0.5"] is None and content["mAP_hard"] is None
    lines = format_table(result.ap).splitlines()
    assert lines[5].split("|")[2:4] == ["     nan ", "     nan "] and "nan" in lines[9]
    assert len({len(line) for line in lines}) == 1
