"""Average precision of predicted lines, exactly as upstream computes it.

For each sample, class and threshold: lines are matched greedily by chamfer distance, precision and recall run over the
predictions sorted by confidence, and AP is the mean precision at ten recalls. What shapes the numbers and is kept:
predictions are sorted by ASCENDING confidence; on equal confidence matched ones come first, in the order in which they
were matched; the recall grid is float32, so a recall of exactly 7/10 misses its point; a sample counts for a class if
it has any line of it, predicted or true.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np

from pivotnet.evaluation.chamfer import PixelSets, chamfer_matrix, pixel_sets

THRESHOLDS = (0.2, 0.5, 1.0, 1.5)  # metres
# torch.linspace(0.1, 1, 10) in float32: counted up from the start, then down from the end
_STEP = np.float32((np.float32(1) - np.float32(0.1)) / np.float32(9))
_UP = np.float32(0.1) + _STEP * np.arange(5, dtype=np.float32)
_DOWN = np.float32(1) - _STEP * np.arange(4, -1, -1, dtype=np.float32)
RECALLS = np.concatenate([_UP, _DOWN])


def greedy_match(distances: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (prediction, label), nearest first, each used once; ties go to the lower prediction, then the lower label.

    Args:
        distances: float64 [n, m], metres.
        threshold: pairs at this distance or beyond (after rounding to float32) are no match.

    Returns:
        indices of predictions and of labels, int64 [k] each, in the order of matching.
    """
    rounded = np.minimum(distances, threshold).astype(np.float32)
    near = np.flatnonzero(rounded < np.float32(threshold))
    near = near[np.argsort(rounded.reshape(-1)[near], kind="stable")]
    labels_total = distances.shape[1]
    predictions: list[int] = []
    labels: list[int] = []
    for prediction, label in zip(*(part.tolist() for part in np.divmod(near, max(labels_total, 1)))):
        if prediction not in predictions and label not in labels:
            predictions.append(prediction)
            labels.append(label)
    return np.array(predictions, np.int64), np.array(labels, np.int64)


def average_precision(matched: np.ndarray, scores: np.ndarray, num_labels: int) -> np.float32:
    """AP of one sample, class and threshold, in float32.

    Args:
        matched: int64 [k] indices of the matched predictions, in the order of matching.
        scores: float32 [n] confidence of all predictions.
        num_labels: true lines.
    """
    if len(scores) == 0 or num_labels == 0:
        return np.float32(0)
    unmatched = np.ones(len(scores), bool)
    unmatched[matched] = False
    order = np.concatenate([matched, np.flatnonzero(unmatched)])
    hit = np.arange(len(scores)) < len(matched)
    hit = hit[np.argsort(scores[order], kind="stable")]
    true_positives = np.cumsum(hit).astype(np.float32)
    precision = true_positives / np.arange(1, len(scores) + 1, dtype=np.float32)
    recall = true_positives / np.float32(num_labels)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]  # the best precision at this recall or more
    first = np.searchsorted(recall, RECALLS, side="left")  # first prediction that reaches each recall
    reached = envelope[first[first < len(recall)]]
    # accumulate adds one after the other, as upstream does
    total = np.add.accumulate(reached)[-1] if len(reached) else np.float32(0)
    return np.float32(total / np.float32(len(RECALLS)))


def line_ap(predicted: PixelSets, scores: np.ndarray, labelled: PixelSets) -> Optional[np.ndarray]:
    """AP at each of THRESHOLDS, float32 [4], of one sample and class; None if there is no line at all.

    ``scores`` are those of the lines of ``predicted``, in their order.
    """
    if len(predicted) == 0 and len(labelled) == 0:
        return None
    if len(predicted) == 0 or len(labelled) == 0:
        return np.zeros(len(THRESHOLDS), np.float32)
    distances = chamfer_matrix(predicted, labelled, THRESHOLDS)
    scores = scores.astype(np.float32)
    return np.array(
        [average_precision(greedy_match(distances, t)[0], scores, len(labelled)) for t in THRESHOLDS], np.float32
    )


def sample_ap(result_mask: np.ndarray, scores: np.ndarray, label_mask: np.ndarray, resolution: float) -> np.ndarray:
    """AP of one sample, float32 [C, 4]; NaN in the rows of classes without any line.

    Args:
        result_mask: [C, rows, columns] ids of predicted lines, 0 is background.
        scores: [n] confidence; id k belongs to ``scores[k - 1]``.
        label_mask: [C, rows, columns] ids of true lines.
        resolution: metres a pixel.

    Raises:
        IndexError: an id in ``result_mask`` has no score.
    """
    result = np.full((len(label_mask), len(THRESHOLDS)), np.nan, np.float32)
    for label, (drawn, true) in enumerate(zip(result_mask, label_mask)):
        predicted = pixel_sets(drawn, resolution)
        row = line_ap(predicted, scores[predicted.ids.astype(np.int64) - 1], pixel_sets(true, resolution))
        if row is not None:
            result[label] = row
    return result


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
