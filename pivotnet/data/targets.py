"""Annotated samples -> padded training targets, on the host.

The rules are upstream's (PivotMapPostProcessor.refactor_targets), for any batch size:

- The instances of a class and the ids in its mask belong together in ascending order of the id.
- If an id was overdrawn completely, so that ids and instances differ in number, the masks of *all* instances of that
  class are drawn anew from their points. Upstream draws the zero padding too: such a line runs on to pixel (0, 0).
- The semantic mask is every pixel with an id; it is never redrawn.

One rule is ours: an instance of fewer than two points is no line. Upstream fails on it ("cost matrix is infeasible");
here it is left out, together with its mask. Its pixels stay in the semantic mask."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch

from pivotnet.config import CLASSES, Config, MapConfig
from pivotnet.structures import Targets


class Sample(NamedTuple):
    """What one sample's targets are made of; any tuple of the same three will do."""

    instance_mask: np.ndarray  # unsigned int [C, 400, 200], instance ids, 0 is background (instance_mask8)
    pivot_points: Mapping[int, np.ndarray]  # class -> float64 [n, P, 2] (row, column) in [0, 1], zero-padded
    pivot_lengths: Mapping[int, np.ndarray]  # class -> int [n], points in use


def build_targets(samples: Sequence[tuple], config: Config) -> Targets:
    """Collate annotated samples, which ``load_annotation`` has checked, into padded targets in host memory. ``samples``
    are tuples as ``Sample``; a class without instances may be an empty array of any shape. ``config`` has class sizes,
    map size and ``mask_stride`` (masks keep every stride-th row and column). G = instances of the fullest class, at
    least 1."""
    stride = config.model.mask_stride
    batch = [[_instances(sample, label, config.map) for label in range(len(CLASSES))] for sample in samples]
    most = max(1, max(len(own) for sample in batch for _, own, _ in sample))
    rows, columns = config.mask_size
    shape = (len(samples), len(CLASSES), most)
    points = np.zeros((*shape, max(config.map.max_points), 2), np.float32)
    lengths = np.zeros(shape, np.int32)
    counts = np.zeros(shape[:2], np.int32)
    masks = np.zeros((*shape, rows, columns), np.uint8)
    semantic = np.zeros((*shape[:2], rows, columns), np.uint8)
    for b, sample in enumerate(batch):
        semantic[b] = samples[b][0][:, ::stride, ::stride] > 0
        for label, (own_points, own_lengths, own_masks) in enumerate(sample):
            n = len(own_lengths)
            counts[b, label] = n
            lengths[b, label, :n] = own_lengths
            points[b, label, :n, : config.map.max_points[label]] = own_points
            masks[b, label, :n] = own_masks[:, ::stride, ::stride]
    tensor = torch.from_numpy
    return Targets(tensor(points), tensor(lengths), tensor(counts), tensor(masks), tensor(semantic))


def _instances(sample: tuple, label: int, map_config: MapConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lines of a class with 2 points or more: points float64 [n, P, 2], lengths int [n] and masks uint8 [n, H, W]."""
    mask = sample[0][label]
    points, lengths = np.asarray(sample[1][label], np.float64), np.asarray(sample[2][label]).astype(np.int64)
    if not points.size:
        points = np.zeros((len(lengths), map_config.max_points[label], 2))
    ids = np.flatnonzero(np.bincount(mask.ravel())[1:]) + 1
    if len(ids) == len(lengths):
        masks = (mask == ids[:, None, None]).astype(np.uint8)
    else:  # drawn anew, padding included
        masks = np.zeros((len(points), *map_config.map_size), np.uint8)
        for drawn, line in zip(masks, points * map_config.map_size):
            draw_line(drawn, line, 1, map_config.mask_thickness)
    lines = lengths >= 2
    return points[lines], lengths[lines], masks[lines]


def draw_line(canvas: np.ndarray, points: np.ndarray, value: int, thickness: int) -> None:
    """Draws (row, column) ``points`` [p, 2], truncated to whole pixels, into ``canvas`` [rows, columns]."""
    corners = np.ascontiguousarray(points.astype(np.int32)[:, ::-1])  # OpenCV wants (x, y)
    cv2.polylines(canvas, [corners], isClosed=False, color=(value,), thickness=thickness)
