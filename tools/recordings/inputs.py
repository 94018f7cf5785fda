"""The rule by which the recordings of upstream were made: every weight from its name; images, cameras, map targets and
random network outputs from a seed. With it no weights are shipped: a test fills a freshly built module and compares
what comes out with a recording."""

import math
import zlib
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

MAP_SIZE = (400, 200)
MAX_POINTS = (10, 2, 30)
QUERIES = (20, 25, 15)
DECODERS = 6
BEV_DECODERS = 4
THICKNESS = 8
# instances by class of each target
CASES = {
    "typical": (6, 3, 4),
    "empty_class": (5, 0, 3),
    "all_empty": (0, 0, 0),
    "max_points": (4, 3, 3),
    "dense": (20, 25, 15),
    "overdrawn": (5, 2, 3),  # the pixels of one divider are missing from the mask
    "learnt": (4, 0, 3),  # the outputs are near the target
    "crowded": (2, 1, 17),  # more boundaries than queries
}

EMBEDDINGS = ("query_feat", "query_embed", "level_embed.weight", "pos_embed.weight")
LEFT_ALONE = ("empty_weight", "collinear_pt_weight")  # constant buffers of the criterion
FULL_IMAGES = (1, 6, 3, 512, 896)


def generator(*parts: Any) -> np.random.Generator:
    """Random numbers of a named stream: the CRC of the parts joined by slashes seeds a PCG64."""
    return np.random.Generator(np.random.PCG64(zlib.crc32("/".join(map(str, parts)).encode())))


def value(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 value of a floating-point parameter or running statistic of that full name and shape."""
    z = generator(key).standard_normal(shape)
    if key.endswith("running_mean"):
        z = 0.1 * z
    elif key.endswith("running_var"):
        z = 1 + 0.1 * np.abs(z)
    elif key.endswith(EMBEDDINGS):
        pass
    elif len(shape) >= 2:
        z = z * math.sqrt(1 / math.prod(shape[1:]))
    elif key.endswith("weight"):
        z = 1 + 0.1 * z  # one-dimensional weights belong to normalisation layers
    else:
        z = 0.1 * z
    return z.astype(np.float32)


@torch.no_grad()
def fill(module_state: Mapping[str, Tensor], prefix: str = "") -> None:
    """Overwrite the tensors of a ``state_dict()`` in place; integer buffers and constants stay as constructed.
    ``prefix`` and a key give the full name in the network (``"im_backbone."``)."""
    for name, tensor in module_state.items():
        if torch.is_floating_point(tensor) and not name.endswith(LEFT_ALONE):
            tensor.copy_(torch.from_numpy(value(prefix + name, tuple(tensor.shape))))


def images(seed: int, shape: tuple[int, ...] = FULL_IMAGES) -> Tensor:
    """Normalised images of unit variance, float32, ``shape`` (full size: [1, 6, 3, 512, 896])."""
    z = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)
    return torch.from_numpy(z.astype(np.float32))


def cameras(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A jittered nuScenes-like rig: extrinsic (camera to ego) float64 [1, 6, 4, 4], intrinsic float64 [1, 6, 3, 3]."""
    rng = generator(seed, "cameras")
    extrinsic = np.tile(np.eye(4), (1, 6, 1, 1))
    intrinsic = np.tile(np.eye(3), (1, 6, 1, 1))
    optical = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # camera axes in an ego-like frame
    for index, degrees in enumerate((55, 0, -55, 110, 180, -110)):
        yaw, pitch, roll = np.radians([degrees, 0.0, 0.0]) + rng.normal(0, 0.01, 3)
        turn = Rotation.from_euler("ZYX", [yaw, pitch, roll]).as_matrix()
        position = [1.0 * math.cos(yaw) + 0.5, 0.6 * math.sin(yaw), 1.5]
        extrinsic[0, index, :3, :3] = turn @ optical
        extrinsic[0, index, :3, 3] = position + rng.normal(0, 0.02, 3)
        focal = (800.0 if degrees == 180 else 1260.0) + rng.normal(0, 5)
        intrinsic[0, index, :2] = [[focal, 0, 800 + rng.normal(0, 15)], [0, focal, 450 + rng.normal(0, 15)]]
    return extrinsic, intrinsic


def target(seed: int, case: str) -> dict[str, np.ndarray]:
    """A drawn map: ``masks`` uint8 [3, 400, 200], and for each class ``points<class>`` float64 [n, P, 2] and
    ``valid_len<class>`` int64 [n]; a class without instances has float64 arrays of shape (0,), as annotation files
    have."""
    rng = generator(seed, "target", case)
    masks = np.zeros((3, *MAP_SIZE), dtype=np.uint8)
    drawn = {"masks": masks}
    identifier = 2
    for label, (count, most) in enumerate(zip(CASES[case], MAX_POINTS)):
        points, lengths = np.zeros((count, most, 2)), np.zeros(count, dtype=np.int64)
        drawn[f"points{label}"], drawn[f"valid_len{label}"] = (points, lengths) if count else (np.zeros(0),) * 2
        for instance in range(count):
            number = most if case == "max_points" else int(rng.integers(2, most + 1))
            line = _polyline(rng, number)
            points[instance, :number] = line
            lengths[instance] = number
            if not (case == "overdrawn" and label == 0 and instance == 1):
                pixels = np.ascontiguousarray((line * MAP_SIZE).astype(np.int32)[:, ::-1])
                cv2.polylines(masks[label], [pixels], False, color=identifier, thickness=THICKNESS)
            identifier += 2
    return drawn


def _polyline(rng: np.random.Generator, number: int) -> np.ndarray:
    """A gently bending line through the map, (row, column) in [0, 1), [number, 2]."""
    start, heading = rng.uniform(0.05, 0.95, 2), rng.uniform(0, 2 * math.pi)
    headings = heading + np.cumsum(rng.normal(0, 0.15, number))
    steps = rng.uniform(0.3, 1.0, number) * 0.6 / number
    offsets = np.cumsum(np.stack([np.cos(headings), np.sin(headings)], -1) * steps[:, None], axis=0)
    return np.clip(start + offsets - offsets[0], 0.0, 0.999)


def outputs(seed: int, case: str) -> dict[str, np.ndarray]:
    """Random network outputs by the rule of the recordings: name/decoder/class -> float32 [1, ...]."""
    near = target(seed, case) if case == "learnt" else None
    drawn = {}
    for label, (queries, most) in enumerate(zip(QUERIES, MAX_POINTS)):
        shapes = {"obj_logits": (1, queries, 2), "ins_masks": (1, queries, *MAP_SIZE), "ctr_im": (1, queries, most, 2)}
        shapes |= {"pts_logits": (1, queries, most, 2), "sem_masks": (1, 2, *MAP_SIZE)}
        for name, shape in shapes.items():
            for decoder in range(BEV_DECODERS if name == "sem_masks" else DECODERS):
                stream = generator(seed, case, name, decoder, label)
                value = (stream.random if name == "ctr_im" else stream.standard_normal)(shape)
                if near is not None:
                    _approach(name, value, decoder, near["masks"][label], near[f"points{label}"])
                drawn[f"{name}/{decoder}/{label}"] = value.astype(np.float32)
    return drawn


def _approach(name: str, value: np.ndarray, decoder: int, mask: np.ndarray, points: np.ndarray) -> None:
    """Move the random outputs of one decoder and class near the target's mask and points, in place."""
    if name == "sem_masks":
        value[:, 1] += np.where(mask > 0, 6, -9)
    elif name == "ins_masks":
        value -= 9
    for k, (identifier, line) in enumerate(zip(np.unique(mask)[1:], points)):
        query = (5 * k + decoder) % value.shape[1]
        if name == "obj_logits":
            value[0, query, 0] += 5
        elif name == "ins_masks":
            value[0, query] += 15 * (mask == identifier)
        elif name == "ctr_im":
            value[0, query] = np.clip(line + 0.02 * (value[0, query] - 0.5), 0, 1)
