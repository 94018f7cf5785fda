"""From the network's output to polylines: what a sample's map consists of, and the mask that evaluation compares."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from pivotnet.config import MapConfig
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.results import MapInstances
from pivotnet.structures import Predictions


def postprocess(predictions: Predictions, map_config: MapConfig) -> list[MapInstances]:
    """Polylines of the last decoder's predictions, one MapInstances a sample. Raises PivotNetError: they are not
    finite.

    An instance counts when "object" is its likelier class. Of its points, those count that are pivots with a
    probability above one half, and the first and the last in any case.
    """
    # One packed copy to the host, in float32 also under autocast.
    last = [t[-1].float() for t in (predictions.object_logits, predictions.points, predictions.point_logits)]
    packed = torch.cat(last, dim=1).cpu()  # [B, Q + T + T, 2]
    if not torch.isfinite(packed).all():
        raise PivotNetError("the network predicts NaN or infinity: its training diverged; take an earlier checkpoint")
    queries, points = map_config.total_queries, map_config.total_points
    object_logits, coordinates, point_logits = packed.split([queries, points, points], dim=1)
    scores, winners = object_logits.softmax(-1).max(-1)  # [B, Q]; a tie goes to "object"
    pivots = point_logits.softmax(-1)[..., 1] > 0.5  # [B, T]
    pixels = coordinates.numpy() * np.array(map_config.map_size, np.float32)  # [B, T, 2]
    samples = zip((winners == 0).numpy(), scores.numpy(), pixels, pivots.numpy())
    return [_sample_instances(*sample, map_config) for sample in samples]


def _sample_instances(
    kept: np.ndarray, scores: np.ndarray, pixels: np.ndarray, pivots: np.ndarray, map_config: MapConfig
) -> MapInstances:
    """Cuts one sample's queries ([Q], [Q], [T, 2], [T]) into instances."""
    per_class = list(zip(map_config.num_queries, map_config.max_points))
    lengths = np.concatenate([[length] * queries for queries, length in per_class])  # [Q] points of each query
    labels = np.repeat(np.arange(len(per_class)), map_config.num_queries)  # [Q]
    ends = np.cumsum(lengths)
    pivots = pivots.copy()
    pivots[ends - lengths] = pivots[ends - 1] = True
    lines = [pixels[end - length : end][pivots[end - length : end]] for end, length in zip(ends[kept], lengths[kept])]
    return MapInstances(lines, scores[kept].astype(np.float32), labels[kept].astype(np.int64))


def draw_mask(instances: MapInstances, map_config: MapConfig) -> np.ndarray:
    """Instance ids drawn as lines, [C, rows, columns]: instance k has id k + 1, later ones overdraw earlier ones.

    The mask is uint8 as upstream's, and uint16 where there are more than 255 instances (upstream's ids saturate).
    """
    dtype: type = np.uint8 if len(instances) <= np.iinfo(np.uint8).max else np.uint16
    mask: np.ndarray = np.zeros((len(map_config.num_queries), *map_config.map_size), dtype)
    for index, (points, label) in enumerate(zip(instances.points, instances.labels)):
        draw_line(mask[label], points, index + 1, map_config.result_thickness)
    return mask


def draw_line(canvas: np.ndarray, points: np.ndarray, value: int, thickness: int) -> None:
    """Draws (row, column) ``points`` [p, 2], truncated to whole pixels, into ``canvas`` [rows, columns]."""
    corners = np.ascontiguousarray(points.astype(np.int32)[:, ::-1])  # OpenCV wants (x, y)
    cv2.polylines(canvas, [corners], isClosed=False, color=(value,), thickness=thickness)
