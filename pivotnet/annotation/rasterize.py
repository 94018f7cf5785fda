"""Draws polylines into instance masks, as the network's targets and as the evaluation's ground truth."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import shapely

from pivotnet.annotation.format import Line, joined_points, split_points
from pivotnet.annotation.vectors import line_parts
from pivotnet.config import CLASSES, MapConfig

_LARGEST_ID = 255


def _clip_again(lines: Sequence[Line], config: MapConfig) -> list[Line]:
    """Lines cut by the upright window in the ego frame, sorted by class; one line may become several or none.

    Rounding and resampling leave points a little outside of the window; lines of a single point are dropped.
    """
    half_x, half_y = config.ego_size[0] / 2, config.ego_size[1] / 2
    window = shapely.box(-half_x, -half_y, half_x, half_y)
    by_class = sorted((line for line in lines if len(line.points) >= 2), key=lambda line: line.label)
    if not by_class:
        return []
    owners = np.repeat(np.arange(len(by_class)), [len(line.points) for line in by_class])
    whole = shapely.linestrings(joined_points(by_class), indices=owners)
    pieces, owners = line_parts(shapely.intersection(whole, window))
    return [Line(shapely.get_coordinates(piece), by_class[owner].label) for piece, owner in zip(pieces, owners)]


def rasterize(lines: Sequence[Line], config: MapConfig) -> tuple[np.ndarray, list[Line]]:
    """Draw lines of the ego frame (metres, x forward, y left) into masks.

    Instance k of the sample (from 1, over all classes) has id 2k-1 in the thin and 2k in the thick mask; ids above 255
    become 255, as upstream's do, so that the lines from the 128th on merge.

    Returns:
        Masks uint8 [2, C, rows, columns] of instance ids, drawn thin (evaluation) and thick (training), rows from the
        front to the back of the map, columns from left to right; and the drawn lines (column, row), pixels not rounded.
    """
    pieces = _clip_again(lines, config)
    rows, columns = config.map_size
    scale = np.array([rows / config.ego_size[0], columns / config.ego_size[1]])
    pixels = (joined_points(pieces) + np.array(config.ego_size) / 2) * scale  # from the back right corner
    corners = split_points(pieces, pixels.astype(np.int32))  # truncated, as upstream does
    canvas = np.zeros((2, len(CLASSES), columns, rows), np.uint8)  # drawn transposed and mirrored: x right, y down
    for number, line in enumerate(corners):
        for thick, thickness in enumerate((config.result_thickness, config.mask_thickness)):
            instance = min(2 * number + 1 + thick, _LARGEST_ID)
            cv2.polylines(canvas[thick, line.label], [line.points], False, (instance,), thickness)
    masks = np.array([[cv2.flip(cv2.transpose(mask), -1) for mask in drawn] for drawn in canvas])
    return masks, split_points(pieces, np.array([columns, rows]) - pixels[:, ::-1])
