"""The inputs of the small loss recording: a map of 100 x 50 pixels, targets and network outputs from a seed."""

from __future__ import annotations

import dataclasses
from typing import Any

import cv2
import numpy as np
from recordings.inputs import generator

from pivotnet.config import MapConfig, preset

CONFIG = dataclasses.replace(
    preset("swint"), map=dataclasses.replace(MapConfig(), map_size=(100, 50), resolution=0.6, mask_thickness=2)
)
MAP = CONFIG.map
# instances by class; "learnt" has outputs near their targets, "overdrawn" an instance whose pixels are gone,
# "crowded" more boundaries than there are queries for
CASES = {"typical": (6, 3, 4), "learnt": (4, 0, 3), "overdrawn": (3, 2, 2), "crowded": (2, 1, 17)}
KEPT = 7  # every 7th row and column of the gradients of masks is recorded


def target(case: str) -> dict[str, Any]:
    """A drawn map: ``masks`` uint8 [3, 100, 50]; by class ``points`` float64 [n, P, 2], ``valid_len`` int64 [n]."""
    rng = generator("small", case)
    masks = np.zeros((3, *MAP.map_size), np.uint8)
    points: dict[int, np.ndarray] = {}
    lengths: dict[int, np.ndarray] = {}
    identifier = 2
    for c, (count, most) in enumerate(zip(CASES[case], MAP.max_points)):
        points[c] = np.zeros((count, most, 2)) if count else np.zeros(0)
        lengths[c] = rng.integers(2, most + 1, count)
        for k, length in enumerate(lengths[c]):
            steps = rng.normal(0, 0.02, (length, 2)) + rng.normal(0, 0.8, 2) / length
            points[c][k, :length] = np.clip(rng.random(2) + np.cumsum(steps, 0), 0, 0.999)
            pixels = (points[c][k, :length] * MAP.map_size).astype(np.int32)[:, ::-1]
            if not (case == "overdrawn" and c == 0 and k == 1):
                line = np.ascontiguousarray(pixels)
                cv2.polylines(masks[c], [line], False, color=identifier, thickness=MAP.mask_thickness)
            identifier += 2
    return {"masks": masks, "points": points, "valid_len": lengths}


def outputs(case: str, masks: np.ndarray, points: dict[int, np.ndarray]) -> dict[str, list[list[np.ndarray]]]:
    """Network outputs, name -> [decoder][class] -> float32 [1, ...]; ``masks`` and ``points`` are the target's."""
    decoders = {
        "obj_logits": len(CONFIG.criterion.decoder_weights),
        "ins_masks": len(CONFIG.criterion.decoder_weights),
        "ctr_im": len(CONFIG.criterion.decoder_weights),
        "pts_logits": len(CONFIG.criterion.decoder_weights),
        "sem_masks": len(CONFIG.criterion.bev_weights),
    }
    made: dict[str, list[list[np.ndarray]]] = {}
    for name, count in decoders.items():
        made[name] = []
        for i in range(count):
            row = []
            for c, (queries, most) in enumerate(zip(MAP.num_queries, MAP.max_points)):
                shape = {
                    "obj_logits": (1, queries, 2),
                    "ins_masks": (1, queries, *MAP.map_size),
                    "ctr_im": (1, queries, most, 2),
                    "pts_logits": (1, queries, most, 2),
                    "sem_masks": (1, 2, *MAP.map_size),
                }[name]
                rng = generator("small", case, name, i, c)
                value = rng.random(shape) if name == "ctr_im" else rng.standard_normal(shape)
                if case == "learnt":
                    _learn(name, value, i, c, masks, points)
                row.append(value.astype(np.float32))
            made[name].append(row)
    return made


def _learn(name: str, value: np.ndarray, i: int, c: int, masks: np.ndarray, points: dict[int, np.ndarray]) -> None:
    """Move random outputs of decoder ``i`` and class ``c`` to their targets, in place."""
    ids = np.unique(masks[c])[1:]
    if name == "sem_masks":
        value[:, 1] += np.where(masks[c] > 0, 6, -9)
    elif name == "ins_masks":
        value -= 9
    for k, (identifier, line) in enumerate(zip(ids, points[c])):
        query = (5 * k + i) % value.shape[1]
        if name == "obj_logits":
            value[0, query, 0] += 5
        elif name == "ins_masks":
            value[0, query] += 15 * (masks[c] == identifier)
        elif name == "ctr_im":
            value[0, query] = np.clip(line + 0.02 * (value[0, query] - 0.5), 0, 1)
