"""The annotated sample file: what is known about one sample, as plain arrays. A file
ROOT/customer/pivot-bezier/<token>.npz has upstream's keys. The arrays image_paths, trans, rots, intrins, semantic_mask,
instance_mask and instance_mask8 are stored as upstream stores them. The keys under which upstream pickles lists of
dicts (ego_vectors, map_vectors, ctr_points, pivot_pts) are stored without pickle, each as three arrays: ``KEY.points``
float64 [sum of n, 2] (all lines one after the other), ``KEY.offsets`` int64 [lines + 1] (line i is
points[offsets[i]:offsets[i + 1]]) and ``KEY.types`` int64 [lines] (class index). Lengths follow from the offsets, so
there is no pivot_length; padding is added by the reader."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

from pivotnet.annotation.npz import read_npz, write_npz
from pivotnet.config import CAMERAS, CLASSES, MapConfig
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike, atomic_write
from pivotnet.schema import Array, Misfit, camera_file, check_arrays, fields, items

FOLDER = Path("customer") / "pivot-bezier"  # below the nuScenes root, where upstream's configs look
MAX_POINTS = MapConfig().max_points  # pivot points of an instance, by class
MOST_LINES = 1000  # of a sample; some have 200
_MOST_PIXELS = 120_000  # of lines one pixel thick, half of all; samples have some thousands
MASK_SHAPE = (len(CLASSES), *MapConfig().map_size)
INSTANCE_MASK = Array("u", MASK_SHAPE, 0, 255)
_PLAIN = {
    "image_paths": Array("U", (len(CAMERAS),)),
    "trans": Array("f", (len(CAMERAS), 3), -1000, 1000),
    "rots": Array("f", (len(CAMERAS), 3, 3), -1.001, 1.001),
    "intrins": Array("f", (len(CAMERAS), 3, 3), -100_000, 100_000),
    "semantic_mask": Array("u", MASK_SHAPE, 0, 1),
    "instance_mask": INSTANCE_MASK,
    "instance_mask8": INSTANCE_MASK,
}
# The largest coordinate of each; bezier control points may lie far beside their curve.
_REACH = {"ego_vectors": 100, "map_vectors": 10_000, "ctr_points": 100_000, "pivot_pts": 1.001}
_PATHS = fields({"image_paths": items(camera_file, len(CAMERAS), len(CAMERAS))})
PLAIN_KEYS, LINE_KEYS = tuple(_PLAIN), tuple(_REACH)

_LINES: dict[str, Array] = {}
for _key, _reach in _REACH.items():
    _LINES |= {
        f"{_key}.points": Array("f", (f"points of {_key}", 2), -_reach, _reach),
        f"{_key}.offsets": Array("i", (f"ends of {_key}",), 0, most=MOST_LINES + 1),
        f"{_key}.types": Array("i", (f"lines of {_key}",), 0, len(CLASSES) - 1, MOST_LINES),
    }
_OURS = {**_PLAIN, **_LINES}
_UPSTREAMS = {
    **_PLAIN,
    **{key: Array("Of", (f"lines of {key}",), most=MOST_LINES) for key in LINE_KEYS[:3]},
    **{key: Array("O", ()) for key in ("pivot_pts", "pivot_length")},
}


@dataclass
class Line:
    """A polyline of one class."""

    points: np.ndarray  # float64 [n, 2]
    label: int  # index into config.CLASSES
    score: Optional[float] = None  # probability, where a network predicted it


@dataclass
class Annotation:
    """One sample. Cameras are in config.CAMERAS' order; C = 3 classes in config.CLASSES' order."""

    image_paths: list[str]  # 6, relative to the nuScenes root
    trans: np.ndarray  # float64 [6, 3] camera to ego translation, metres
    rots: np.ndarray  # float64 [6, 3, 3] camera to ego rotation
    intrins: np.ndarray  # float64 [6, 3, 3] pixels of the original image
    semantic_mask: np.ndarray  # uint8 [C, 400, 200], 1 where instance_mask has a line
    instance_mask: np.ndarray  # uint8 [C, 400, 200] instance ids, lines 1 pixel thick (evaluation)
    instance_mask8: np.ndarray  # uint8 [C, 400, 200] instance ids, lines 8 pixels thick (training)
    ego_vectors: list[Line]  # (x, y) metres around the lidar's ego pose, turned by its yaw: x forward, y left
    map_vectors: list[Line]  # (column, row) pixels of the map, not rounded
    ctr_points: list[Line]  # bezier control points, (column, row) metres from the map's corner; see control_points
    pivot_points: dict[int, np.ndarray]  # float64 [n, P, 2] by class: (row, column) in [0, 1], zero-padded
    pivot_lengths: dict[int, np.ndarray]  # int64 [n] by class: points of each instance before padding


def joined_points(lines: Sequence[Line]) -> np.ndarray:
    """The points of all lines one after the other, float64 [sum of n, 2]."""
    return np.concatenate([np.zeros((0, 2)), *(line.points for line in lines)])


def split_points(lines: Sequence[Line], points: np.ndarray) -> list[Line]:
    """Lines of the same lengths and labels as ``lines``, with ``points`` [sum of n, 2] instead of theirs."""
    ends = np.cumsum([len(line.points) for line in lines]).tolist()
    return [Line(points[start:end], line.label) for start, end, line in zip([0, *ends], ends, lines)]


def lines_to_arrays(key: str, lines: Sequence[Line]) -> dict[str, np.ndarray]:
    """The three arrays under which ``lines`` are stored."""
    return {
        f"{key}.points": joined_points(lines),
        f"{key}.offsets": np.cumsum([0, *(len(line.points) for line in lines)], dtype=np.int64),
        f"{key}.types": np.array([line.label for line in lines], np.int64),
    }


def check_offsets(offsets: np.ndarray, points: np.ndarray, lines: int) -> None:
    """Raise Misfit unless the offsets cut all of the points into so many lines."""
    if len(offsets) != lines + 1 or offsets[0] != 0 or offsets[-1] != len(points) or (np.diff(offsets) < 0).any():
        raise Misfit(f"has {len(offsets)} offsets, which do not cut {len(points)} points into {lines} lines")


def check_thin_mask(key: str, mask: np.ndarray) -> None:
    """Raise Misfit if lines one pixel thick cannot cover so many pixels, which would take minutes to compare."""
    covered = np.count_nonzero(mask)
    if covered > _MOST_PIXELS:
        raise Misfit(f"covers {covered} pixels, more than {_MOST_PIXELS}", key)


def _lines_from_arrays(data: Mapping[str, Any], key: str) -> list[Line]:
    points, offsets, labels = (data[f"{key}.{part}"] for part in ("points", "offsets", "types"))
    check_offsets(offsets, points, len(labels))
    return [Line(points[a:b], int(label)) for a, b, label in zip(offsets[:-1], offsets[1:], labels)]


def _from_upstream(data: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Our arrays of lines, from upstream's arrays of dicts (an empty list became a float array of shape (0,))."""
    lines = {
        key: [Line(np.asarray(entry["pts"], np.float64).reshape(-1, 2), int(entry["type"])) for entry in data[key]]
        for key in LINE_KEYS[:3]
    }
    lines["pivot_pts"] = []
    points, lengths_by_class = data["pivot_pts"].item(), data["pivot_length"].item()
    for label, limit in enumerate(MAX_POINTS):
        rows = np.array(points[label], np.float64).reshape(-1, limit, 2)
        lengths = [int(length) for length in lengths_by_class[label]]
        if len(lengths) != len(rows) or not all(0 <= length <= limit for length in lengths):
            raise Misfit(f"pivot_length {lengths[:4]} does not fit {len(rows)} lines of up to {limit} points")
        lines["pivot_pts"] += [Line(row[:length], label) for row, length in zip(rows, lengths)]
    arrays: dict[str, np.ndarray] = {}
    for key, value in lines.items():
        arrays |= lines_to_arrays(key, value)
    check_arrays(arrays, _LINES)
    return arrays


def pad_pivots(lines: Sequence[Line]) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Pivot points by class, zero-padded to MAX_POINTS ([n, P, 2]), and their lengths ([n]). Raises Misfit: a line has
    more points."""
    points, lengths = {}, {}
    for label, limit in enumerate(MAX_POINTS):
        chosen = [line.points for line in lines if line.label == label]
        if max(map(len, chosen), default=0) > limit:
            raise Misfit(f"has {max(map(len, chosen))} pivot points in a line of {CLASSES[label]}, more than {limit}")
        points[label] = np.zeros((len(chosen), limit, 2))
        lengths[label] = np.array([len(line) for line in chosen], np.int64)
        for row, line in zip(points[label], chosen):
            row[: len(line)] = line
    return points, lengths


def load_annotation(path: PathLike) -> Annotation:
    """Read an annotated sample file, ours or one that upstream's converter wrote. Raises PivotNetError: the file is
    missing, truncated, or of another kind."""
    data = read_npz(path, _OURS, _UPSTREAMS)
    try:
        if "pivot_pts" in data:
            data |= _from_upstream(data)
        lines: dict[str, Any] = {key: _lines_from_arrays(data, key) for key in LINE_KEYS}
        points, lengths = pad_pivots(lines.pop("pivot_pts"))
        annotation = Annotation(
            image_paths=[str(name) for name in data["image_paths"]],
            **{key: data[key].astype(np.uint8 if "mask" in key else np.float64) for key in PLAIN_KEYS[1:]},  # a copy
            **lines,
            pivot_points=points,
            pivot_lengths=lengths,
        )
        check_cameras(annotation.image_paths, annotation.rots, annotation.intrins)
        return annotation
    except (LookupError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise PivotNetError(
            f"{path} is no annotated sample ({type(error).__name__}: {error}): "
            "delete it and run pivotnet annotate again"
        ) from error


def check_cameras(image_paths: Sequence[str], rots: np.ndarray, intrins: np.ndarray) -> None:
    """Raise Misfit if one of ``image_paths`` leaves the data root, a camera has none, or a matrix of ``rots`` (camera
    to ego) or ``intrins`` (pixels), [6, 3, 3] each, cannot be inverted."""
    _PATHS({"image_paths": image_paths})
    missing = set(CAMERAS) - {path.split("/")[-2] for path in image_paths}
    if missing:
        raise Misfit(f"has no image of {', '.join(sorted(missing))}", "image_paths")
    if not np.allclose(rots @ rots.transpose(0, 2, 1), np.eye(3), atol=0.01):
        raise Misfit("has a matrix that is no rotation", "rots")
    if not (np.abs(np.linalg.det(intrins)) >= 1).all():
        raise Misfit("has a singular matrix", "intrins")


def unpadded_pivots(annotation: Annotation) -> list[Line]:
    """The pivot points (row, column) in [0, 1] of each line, without padding."""
    return [
        Line(row[:length], label)
        for label, rows in annotation.pivot_points.items()
        for row, length in zip(rows, annotation.pivot_lengths[label])
    ]


def to_arrays(annotation: Annotation) -> dict[str, np.ndarray]:
    arrays = {key: np.asarray(getattr(annotation, key)) for key in PLAIN_KEYS}
    for key in LINE_KEYS[:3]:
        arrays |= lines_to_arrays(key, getattr(annotation, key))
    return arrays | lines_to_arrays("pivot_pts", unpadded_pivots(annotation))


def save_annotation(path: PathLike, annotation: Annotation) -> None:
    """Write an annotated sample file; it appears whole or not at all, and equal content gives equal bytes. Raises
    PivotNetError: the folder is missing, not writable, or its disk is full. It is not forced to the disk: after a power
    failure it may be cut short, and is made again by the next run."""
    with atomic_write(path, durable=False) as stream:
        write_npz(stream, to_arrays(annotation))


def to_upstream(annotation: Annotation) -> dict[str, Any]:
    """The sample as the dict that upstream's code reads from its own files, pickled objects unpacked. pivot_pts and
    pivot_length are dicts by class (upstream calls ``.item()`` on them); a class without instances has arrays of shape
    (0,), as upstream's."""
    item: dict[str, Any] = {key: np.asarray(getattr(annotation, key)) for key in PLAIN_KEYS}
    for key in LINE_KEYS[:3]:
        lines = getattr(annotation, key)
        item[key] = [{"pts": line.points, "pts_num": len(line.points), "type": line.label} for line in lines]
    item["pivot_pts"] = {k: v if len(v) else np.zeros(0) for k, v in annotation.pivot_points.items()}
    item["pivot_length"] = {k: v if len(v) else np.zeros(0) for k, v in annotation.pivot_lengths.items()}
    return item
