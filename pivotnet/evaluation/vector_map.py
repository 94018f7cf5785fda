"""Vector maps: a sample's map elements as polylines in metres, and the JSON files of ``pivotnet predict``.

Frame: the ego frame of the sample, turned by yaw only: x forward, y left, origin at the car's pose. One JSON object a
sample::

    {"format": "pivotnet-vector-map", "version": 1,
     "token": "<sample token>",
     "checkpoint": "<path of the checkpoint that predicted it>",
     "range": {"x": [-30.0, 30.0], "y": [-15.0, 15.0]},      metres, what the map covers
     "instances": [
       {"class": "divider" | "ped_crossing" | "boundary",
        "score": 0.93,                                       probability; null in ground truth
        "points": [[x, y], ...]}]}                           metres, at least two, in order along the line"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pivotnet.annotation.format import Annotation, Line, unpadded_pivots
from pivotnet.config import CLASSES, MapConfig
from pivotnet.evaluation.results import MapInstances
from pivotnet.files import PathLike, write_json


def pixels_to_ego(pixels: np.ndarray, map_config: MapConfig) -> np.ndarray:
    """(row, column) of the map, [..., 2], to metres (x forward, y left): row 0 is the front edge, column 0 the left."""
    half = np.array(map_config.ego_size) / 2
    return half - np.asarray(pixels, np.float64) * map_config.resolution


def predicted_lines(instances: MapInstances, map_config: MapConfig) -> list[Line]:
    """The predicted lines in metres."""
    return [
        Line(pixels_to_ego(points, map_config), int(label), float(score))
        for points, label, score in zip(instances.points, instances.labels, instances.scores)
    ]


def annotated_lines(annotation: Annotation) -> list[Line]:
    """The annotated lines in metres, a point a metre."""
    return [line for line in annotation.ego_vectors if len(line.points) > 1]


def annotated_pivots(annotation: Annotation, map_config: MapConfig) -> list[Line]:
    """The annotated lines in metres, pivot points only."""
    size = np.array(map_config.map_size)
    return [Line(pixels_to_ego(line.points * size, map_config), line.label) for line in unpadded_pivots(annotation)]


def save_vector_map(
    path: PathLike, token: str, lines: Sequence[Line], checkpoint: PathLike, map_config: MapConfig
) -> None:
    """Write the JSON of one sample; points are rounded to millimetres, scores to four digits."""
    x, y = (size / 2 for size in map_config.ego_size)
    content = {
        "format": "pivotnet-vector-map",
        "version": 1,
        "token": token,
        "checkpoint": str(checkpoint),
        "range": {"x": [-x, x], "y": [-y, y]},
        "instances": [
            {
                "class": CLASSES[line.label],
                "score": None if line.score is None else round(line.score, 4),
                "points": np.round(line.points, 3).tolist(),
            }
            for line in lines
        ],
    }
    write_json(path, content, indent=None)
