"""Chamfer distances between lines of pixels, and average precision, exactly as upstream computes it. For each sample,
class and threshold: lines are matched greedily by chamfer distance, precision and recall run over the predictions
sorted by confidence, and AP is the mean precision at ten recalls. What shapes the numbers and is kept: predictions are
sorted by ASCENDING confidence; on equal confidence matched ones come first, in the order in which they were matched;
the recall grid is float32, so a recall of exactly 7/10 misses its point; a sample counts for a class if it has any line
of it, predicted or true."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist

THRESHOLDS = (0.2, 0.5, 1.0, 1.5)  # metres
_THRESHOLDS = np.array(THRESHOLDS, np.float32)
# torch.linspace(0.1, 1, 10), with its errors of rounding
RECALLS = np.array([0.1, 0.19999999, 0.29999998, 0.39999998, 0.49999997, 0.6, 0.70000005, 0.8, 0.9, 1], np.float32)
_MOST_DISTANCES = 2**22  # in memory at once; a hundred times as many as usual lines have between them


@dataclass
class PixelSets:
    """The pixels of n lines, line after line, class after class."""

    labels: np.ndarray  # int64 [n] class indices, ascending
    ids: np.ndarray  # int64 [n] instance ids, ascending within a class
    starts: np.ndarray  # int64 [n] index of each line's first pixel in ``metres``
    metres: np.ndarray  # float64 [pixels, 2] (row, column)

    def __len__(self) -> int:
        return len(self.ids)

    def lines(self) -> list[np.ndarray]:
        """The points of each line, n times float64 [k, 2], metres."""
        ends = [*self.starts[1:].tolist(), len(self.metres)]
        return [self.metres[start:end] for start, end in zip(self.starts.tolist(), ends)]


def pixel_sets(mask: np.ndarray, resolution: float) -> PixelSets:
    """The lines of an id mask [C, rows, columns]; 0 is background. A pixel lies at float32(index) *
    float32(resolution), rounded to float32 as upstream does: this decides ties."""
    occupied = np.flatnonzero(mask != 0)  # fast on booleans only
    label, row, column = np.unravel_index(occupied, mask.shape)
    ids = mask.reshape(-1)[occupied].astype(np.int64)
    span = int(ids.max(initial=0)) + 1
    key = label * span + ids
    order = np.argsort(key, kind="stable")
    key = key[order]
    starts = np.flatnonzero(np.concatenate([key[:1] >= 0, key[1:] != key[:-1]]))
    labels, ids = np.divmod(key[starts], span)
    metres = np.stack([row, column], 1)[order].astype(np.float32) * np.float32(resolution)
    return PixelSets(labels, ids, starts, metres.astype(np.float64))


def chamfer_matrix(first: PixelSets, second: PixelSets, limit: float) -> np.ndarray:
    """Chamfer distances between all lines, float64 [n, m], metres: infinite between lines of two classes; at ``limit``
    or beyond, any value from ``limit`` on may stand for the distance, as lower bounds show it for most of these
    pairs."""
    distances = (_bounds(first, second) + _bounds(second, first).T) / 2
    distances[first.labels[:, None] != second.labels] = np.inf
    pairs = np.argwhere(distances < limit * (1 + 1e-9))  # a bound is rounded, too
    if not len(pairs):
        return distances
    lines, others = first.lines(), second.lines()
    nearest: list[np.ndarray] = []  # squared distances of each point of a line to the other line: two arrays a pair
    for i, j in pairs.tolist():
        nearest += _nearest(lines[i], others[j])
    counts = np.array([len(part) for part in nearest])
    means = np.add.reduceat(np.sqrt(np.concatenate(nearest)), np.cumsum(counts) - counts) / counts
    distances[tuple(pairs.T)] = means.reshape(-1, 2).mean(1)
    return distances


def _nearest(line: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared distance of each point to the other line, float64 [n] and [m]."""
    if len(line) * len(other) > _MOST_DISTANCES:
        return KDTree(other).query(line)[0] ** 2, KDTree(line).query(other)[0] ** 2
    squared = cdist(line, other, "sqeuclidean")
    return np.minimum.reduce(squared, 1), np.minimum.reduce(squared)


def _bounds(first: PixelSets, second: PixelSets) -> np.ndarray:
    """Lower bounds of the directed chamfer distances, float64 [n, m], metres. The mean distance of points to a line is
    at least that to the rectangle around it, which, being convex, is at least the distance of their mean to it."""
    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)))
    counts = np.diff(first.starts, append=len(first.metres))
    means = (np.add.reduceat(first.metres, first.starts) / counts[:, None])[:, None]  # [n, 1, 2]
    low, high = (bound.reduceat(second.metres, second.starts) for bound in (np.minimum, np.maximum))  # [m, 2]
    gaps = np.maximum(np.maximum(low - means, means - high), 0)  # [n, m, 2]
    return np.hypot(gaps[..., 0], gaps[..., 1])


def greedy_match(distances: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (prediction, true line) at ``distances`` (float64 [n, m], metres) that are below ``threshold`` after
    rounding to float32: nearest first, each used once; ties go to the lower prediction, then true line. The pairs for a
    smaller threshold are the first of these: those at a smaller distance than it. Returns indices of predictions and of
    true lines, int64 [k] each, and distances, float32 [k], in the order of matching."""
    rounded = distances.astype(np.float32)
    near = np.argwhere(rounded < np.float32(threshold))
    near = near[np.argsort(rounded[tuple(near.T)], kind="stable")]
    taken: dict[int, int] = {}  # prediction: true line
    used: set[int] = set()
    for prediction, truth in near.tolist():
        if prediction not in taken and truth not in used:
            taken[prediction] = truth
            used.add(truth)
    predictions, truths = np.array(list(taken.items()), np.int64).reshape(-1, 2).T
    return predictions, truths, rounded[predictions, truths]


def average_precision(found: np.ndarray, rank: np.ndarray, scores: np.ndarray, num_true: np.ndarray) -> np.ndarray:
    """AP of C classes at each of THRESHOLDS, float32 [C, 4]; 0 for a class without prediction or true line. Of each
    prediction, ``found`` (float32 [C, n]) is the distance at which it was matched, infinite if it was not; ``rank``
    (int64 [C, n]) is its position in the order of matching; ``scores`` (float32 [C, n]) its confidence. A class of
    fewer predictions is padded with infinity. ``num_true`` (int64 [C]) counts true lines."""
    number = found.shape[1]
    if number == 0:
        return np.zeros((len(found), len(THRESHOLDS)), np.float32)
    hit = found[:, None] < _THRESHOLDS[:, None]  # [C, 4, n]
    index = np.arange(number)
    tie = np.where(hit, rank[:, None], rank.max() + 1 + index)
    order = np.lexsort((tie, np.broadcast_to(scores[:, None], tie.shape)))
    true_positives = np.take_along_axis(hit, order, -1).cumsum(-1, dtype=np.float32)
    # Padding comes last and hits nothing: the precision only falls there, and the recall stays.
    precision = true_positives / (index + 1).astype(np.float32)
    recall = true_positives / np.maximum(num_true, 1).astype(np.float32)[:, None, None]
    # the best precision at this recall or more
    envelope = np.maximum.accumulate(precision[..., ::-1], -1)[..., ::-1]
    reached = recall[:, :, None] >= RECALLS[:, None]  # [C, 4, 10, n]
    best = np.take_along_axis(envelope, reached.argmax(-1), -1)  # at the first prediction that reaches each recall
    best[~reached[..., -1]] = 0
    # accumulate adds one after the other, as upstream does
    total = np.add.accumulate(best, -1)[..., -1] / np.float32(len(RECALLS))
    total[num_true == 0] = 0
    return total


def sample_ap(result_mask: np.ndarray, scores: np.ndarray, true_mask: np.ndarray, resolution: float) -> np.ndarray:
    """AP of one sample, float32 [C, 4]; NaN in the rows of classes without any line. ``result_mask`` and ``true_mask``
    [C, rows, columns] hold the ids of lines, 0 is background; predicted id k has the confidence ``scores[k - 1]``;
    ``resolution`` is in metres a pixel."""
    predicted, true = pixel_sets(result_mask, resolution), pixel_sets(true_mask, resolution)
    num_predicted, num_true = (np.bincount(sets.labels, minlength=len(true_mask)) for sets in (predicted, true))  # [C]
    first = np.cumsum(num_predicted) - num_predicted
    index = predicted.labels, np.arange(len(predicted)) - first[predicted.labels]  # of each prediction in [C, n]
    shape = len(true_mask), num_predicted.max(initial=0)
    found, confidence = np.full((2, *shape), np.inf, np.float32)
    rank = np.zeros(shape, np.int64)
    confidence[index] = scores[predicted.ids - 1]
    # The distance between lines of two classes is infinite, so all classes are matched at once.
    matched, _, distances = greedy_match(chamfer_matrix(predicted, true, max(THRESHOLDS)), max(THRESHOLDS))
    found[index[0][matched], index[1][matched]] = distances
    rank[index[0][matched], index[1][matched]] = np.arange(len(matched))
    ap = average_precision(found, rank, confidence, num_true)
    ap[num_predicted + num_true == 0] = np.nan
    return ap


@dataclass
class ApResult:
    """AP of a set of samples."""

    sums: np.ndarray  # float32 [C, 4] over the samples that count
    counts: np.ndarray  # int64 [C] samples that count
    samples: int  # samples looked at

    @property
    def ap(self) -> np.ndarray:
        """Mean AP, float32 [C, 4]; NaN for a class that no sample has."""
        with np.errstate(invalid="ignore"):
            return self.sums / self.counts.astype(np.float32)[:, None]


def accumulate(per_sample: np.ndarray) -> ApResult:
    """Adds up AP of samples [N, C, 4], one after the other in float32, as upstream does."""
    counted = ~np.isnan(per_sample[:, :, 0])
    values = np.where(counted[:, :, None], per_sample, np.float32(0)).astype(np.float32)
    sums = np.add.accumulate(values, axis=0)[-1] if len(values) else np.zeros(values.shape[1:], np.float32)
    return ApResult(sums, counted.sum(0), len(values))
