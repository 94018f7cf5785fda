"""Draws polylines into instance masks, as the network's targets and as the evaluation's ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import shapely

from pivotnet.annotation.format import Line
from pivotnet.annotation.vectors import line_parts
from pivotnet.config import CLASSES, MapConfig

_LARGEST_ID = 255


@dataclass
class Raster:
    """Masks and lines of one sample. Rows run from the front to the back of the map, columns from left to right."""

    masks: np.ndarray  # uint8 [2, C, rows, columns] instance ids, drawn thin (evaluation) and thick (training)
    map_vectors: list[Line]  # (column, row), pixels, not rounded
    metric_vectors: list[Line]  # the same in metres


def clip_again(lines: Sequence[Line], config: MapConfig) -> list[Line]:
    """Lines cut by the upright window in the ego frame, sorted by class; one line may become several or none.

    Rounding and resampling leave points a little outside of the window; lines of a single point are dropped.
    """
    half_x, half_y = config.ego_size[0] / 2, config.ego_size[1] / 2
    window = shapely.box(-half_x, -half_y, half_x, half_y)
    by_class = sorted((line for line in lines if len(line.points) >= 2), key=lambda line: line.kind)
    if not by_class:
        return []
    owner = np.repeat(np.arange(len(by_class)), [len(line.points) for line in by_class])
    whole = shapely.linestrings(np.concatenate([line.points for line in by_class]), indices=owner)
    pieces, rows = line_parts(shapely.intersection(whole, window))
    points, piece_of_point = shapely.get_coordinates(pieces, return_index=True)
    ends = np.cumsum(np.bincount(piece_of_point, minlength=len(pieces))).tolist()
    return [Line(points[start:end], by_class[row].kind) for start, end, row in zip([0, *ends], ends, rows.tolist())]


def _upright(canvas: np.ndarray, drawn: Sequence[int]) -> np.ndarray:
    """Masks [2, C, columns, rows] drawn with x to the right and y down, as [2, C, rows, columns] from front to back and
    from left to right; classes of which nothing was drawn stay empty."""
    masks = np.zeros((*canvas.shape[:2], canvas.shape[3], canvas.shape[2]), np.uint8)
    for kind in np.flatnonzero(drawn):
        for mask, upright in zip(canvas[:, kind], masks[:, kind]):
            cv2.flip(cv2.transpose(mask), -1, dst=upright)
    return masks


def rasterize(lines: Sequence[Line], config: MapConfig, distinct_ids: bool = False) -> Raster:
    """Draw lines of the ego frame (metres, x forward, y left) into masks.

    Instance k of the sample (from 1, over all classes) has id 2k-1 in the thin and 2k in the thick mask; ids above 255
    become 255, as upstream's do, so that the lines from the 128th on merge. With ``distinct_ids`` a sample that has
    that many numbers the instances of each class by themselves instead, 1, 2, 3 and so on in both masks.
    """
    pieces = clip_again(lines, config)
    rows, columns = config.map_size
    half = np.array(config.ego_size) / 2
    scale = np.array([rows / config.ego_size[0], columns / config.ego_size[1]])
    renumber = distinct_ids and 2 * len(pieces) > _LARGEST_ID
    canvas = np.zeros((2, len(CLASSES), columns, rows), np.uint8)  # drawn transposed and mirrored: x right, y down
    raster = Raster(canvas, [], [])
    drawn = [0] * len(CLASSES)
    points = np.concatenate([np.zeros((0, 2)), *(piece.points for piece in pieces)])
    metres = points + half  # from the back right corner
    pixels = metres * scale
    corners = pixels.astype(np.int32)  # truncated, as upstream does
    in_map = np.array([columns, rows]) - pixels[:, ::-1]
    in_metres = np.array(config.ego_size)[::-1] - metres[:, ::-1]
    start = 0
    for number, piece in enumerate(pieces, start=1):
        own = slice(start, start + len(piece.points))
        start = own.stop
        drawn[piece.kind] += 1
        ids = (drawn[piece.kind],) * 2 if renumber else (2 * number - 1, 2 * number)
        for mask, instance, thickness in zip(canvas, ids, (config.result_thickness, config.mask_thickness)):
            cv2.polylines(mask[piece.kind], [corners[own]], False, (min(instance, _LARGEST_ID),), thickness)
        raster.map_vectors.append(Line(in_map[own], piece.kind))
        raster.metric_vectors.append(Line(in_metres[own], piece.kind))
    raster.masks = _upright(canvas, drawn)
    return raster
