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
    pieces = []
    for kind in range(len(CLASSES)):
        long_enough = [line.points for line in lines if line.kind == kind and len(line.points) >= 2]
        if not long_enough:
            continue
        owner = np.repeat(np.arange(len(long_enough)), [len(points) for points in long_enough])
        cut = shapely.intersection(shapely.linestrings(np.concatenate(long_enough), indices=owner), window)
        pieces += [Line(shapely.get_coordinates(part), kind) for part in line_parts(cut)]
    return pieces


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
    for number, piece in enumerate(pieces, start=1):
        metres = piece.points + half  # [n, 2] (x, y) from the back right corner
        pixels = metres * scale
        drawn[piece.kind] += 1
        ids = (drawn[piece.kind],) * 2 if renumber else (2 * number - 1, 2 * number)
        corners = pixels.astype(np.int32)  # truncated, as upstream does
        for mask, instance, thickness in zip(canvas, ids, (config.result_thickness, config.mask_thickness)):
            cv2.polylines(mask[piece.kind], [corners], False, (min(instance, _LARGEST_ID),), thickness)
        raster.map_vectors.append(Line(np.array([columns, rows]) - pixels[:, ::-1], piece.kind))
        raster.metric_vectors.append(Line(np.array(config.ego_size)[::-1] - metres[:, ::-1], piece.kind))
    raster.masks = np.ascontiguousarray(canvas[:, :, ::-1, ::-1].transpose(0, 1, 3, 2))
    return raster
