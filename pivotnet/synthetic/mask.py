"""The semantic prior of a location: the picture that the ``map`` table names."""

from __future__ import annotations

import cv2
import numpy as np
import shapely

from pivotnet.synthetic.town import Town


def map_mask(town: Town, resolution: float = 0.1) -> np.ndarray:
    """Semantic prior of the location: 255 on roads and walkways, 0 elsewhere; row 0 is the northern edge."""
    width, height = (int(round(extent / resolution)) for extent in town.layout.size)
    mask = np.zeros((height, width), np.uint8)
    for part in shapely.get_parts(shapely.union_all([town.paved, town.walkways])):
        rings = [np.array(ring.coords) for ring in (part.exterior, *part.interiors)]
        pixels = [np.stack([ring[:, 0], town.layout.size[1] - ring[:, 1]], 1) / resolution for ring in rings]
        cv2.fillPoly(mask, [np.round(ring).astype(np.int32) for ring in pixels], 255)
    return mask
