"""Result files: what a network predicted for one sample, on disk. FOLDER/<token>.npz holds, without pickle: ``dt_mask``
[C, rows, columns] (ids of drawn instances, 0 is background), ``dt_res.points`` float32 [sum of p, 2] (row, column)
pixels, ``dt_res.offsets`` int64 [n + 1] (instance i is points[offsets[i]:offsets[i + 1]] and has id i + 1 in the mask),
``dt_res.scores`` float32 [n] and ``dt_res.labels`` int64 [n] (index into config.CLASSES). FOLDER/run.json says which
checkpoint made them. Upstream's result files, which pickle ``dt_res``, are read and written too. This module imports no
torch, so that scoring processes start at once."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pivotnet.annotation.format import MASK_SHAPE, MOST_LINES, check_offsets, check_thin_mask
from pivotnet.annotation.npz import read_npz, write_npz
from pivotnet.config import CLASSES
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike, atomic_write, make_folder, read_json, write_json
from pivotnet.schema import Array, Misfit, check_arrays, fields, text

RUN_FILE = "run.json"
FORMATS = ("pivotnet", "upstream")  # of result files
_RUN = fields({"checkpoint": text, "fingerprint": text, "preset": text}, {"format": text})
_MASK = {"dt_mask": Array("iu", MASK_SHAPE, 0, 65_535)}
_LINES = {
    "dt_res.points": Array("f", ("points", 2), -100_000, 100_000, 125_000),  # BeMapNet: 100 * (20² + 25² + 15²)
    "dt_res.offsets": Array("i", ("ends",), 0, most=MOST_LINES + 1),
    "dt_res.scores": Array("f", ("instances",), 0, 1, MOST_LINES),
    "dt_res.labels": Array("i", ("instances",), 0, len(CLASSES) - 1, MOST_LINES),
}
_OURS, _UPSTREAMS = {**_MASK, **_LINES}, {**_MASK, "dt_res": Array("O", ())}


@dataclass
class MapInstances:
    """The predicted polylines of one sample, class after class; n instances."""

    points: list[np.ndarray]  # n times float32 [p, 2] (row, column), pixels of the map, not rounded
    scores: np.ndarray  # float32 [n] probability of "object"
    labels: np.ndarray  # int64 [n] index into config.CLASSES

    def __len__(self) -> int:
        return len(self.points)


def results_folder(checkpoint: PathLike) -> Path:
    """Where the result files of a checkpoint go by default: results_<its name> beside it."""
    return Path(checkpoint).parent / f"results_{Path(checkpoint).stem}"


def result_path(folder: PathLike, token: str) -> Path:
    return Path(folder) / f"{token}.npz"


def save_result(path: PathLike, mask: np.ndarray, instances: MapInstances, layout: str = FORMATS[0]) -> None:
    """Write a result file in the format ``layout``; ``mask`` is ``inference.draw_mask`` of ``instances``. Raises
    PivotNetError: the folder is missing, not writable, or its disk is full."""
    with atomic_write(path) as stream:
        if layout == "upstream":
            np.savez_compressed(stream, dt_mask=mask, dt_res=np.array(to_upstream(instances), dtype=object))
        else:
            write_npz(stream, {"dt_mask": mask, **_instance_arrays(instances)})


def to_upstream(instances: MapInstances) -> dict[str, list]:
    """What upstream saves as ``dt_res``: lists that begin with a placeholder, since ids and labels begin with 1."""
    return {
        "map": [None, *instances.points],
        "confidence_level": [-1, *instances.scores.tolist()],
        "pred_label": [0, *(instances.labels + 1).tolist()],
    }


def load_result(path: PathLike) -> tuple[np.ndarray, MapInstances]:
    """Mask and polylines of a result file, ours or upstream's. Raises PivotNetError: the file is missing, truncated, of
    another kind, or does not fit together."""
    data = read_npz(path, _OURS, _UPSTREAMS)
    mask = data["dt_mask"]
    try:
        if "dt_res" in data:
            data = _from_upstream(data["dt_res"].item())
            check_arrays(data, _LINES)
        points, offsets, scores, labels = (data[key] for key in _LINES)
        check_offsets(offsets, points, len(labels))
        check_thin_mask("dt_mask", mask)
        if mask.max() > len(labels):
            raise Misfit(f"has id {mask.max()}, and there are {len(labels)} instances", "dt_mask")
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise PivotNetError(
            f"{path} is no result file ({type(error).__name__}: {error}): delete it and predict the sample again"
        ) from error
    return mask, MapInstances(np.split(points, offsets[:-1])[1:], scores, labels)


def _instance_arrays(instances: MapInstances) -> dict[str, np.ndarray]:
    return {
        "dt_res.points": np.concatenate([np.zeros((0, 2)), *instances.points]).astype(np.float32),
        "dt_res.offsets": np.cumsum([0, *map(len, instances.points)], dtype=np.int64),
        "dt_res.scores": instances.scores.astype(np.float32),
        "dt_res.labels": instances.labels.astype(np.int64),
    }


def _from_upstream(content: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The reverse of ``to_upstream``, as the arrays of _LINES."""
    with np.errstate(over="ignore"):  # what becomes infinite is refused
        lines = [np.asarray(line, np.float32).reshape(-1, 2) for line in content["map"][1:]]
        scores = np.asarray(content["confidence_level"][1:], np.float32)
    labels = np.asarray(content["pred_label"][1:], np.int64) - 1
    return _instance_arrays(MapInstances(lines, scores, labels))


def open_folder(folder: PathLike, checkpoint: PathLike, preset: str, layout: str = FORMATS[0]) -> None:
    """Make a folder of results, or reuse one: results are kept for the same weights, under any file name. Raises
    PivotNetError: the folder has results of another checkpoint or in another format, or cannot be made."""
    target = make_folder(folder, "folder for results")
    fingerprint = hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()
    known = read_run(target)
    if known.get("fingerprint") == fingerprint:
        if known.get("format", FORMATS[0]) != layout:
            remedy = "choose another --results folder"
            raise PivotNetError(f"{target} holds results in another format than {layout}: {remedy}")
        return
    if known or any(target.glob("*.npz")):
        raise PivotNetError(
            f"{target} holds results of {known.get('checkpoint', 'an unknown run')}, not of {checkpoint}: "
            "choose another --results folder or delete this one"
        )
    run = {"checkpoint": str(checkpoint), "fingerprint": fingerprint, "preset": preset, "format": layout}
    write_json(target / RUN_FILE, run)


def read_run(folder: PathLike) -> dict[str, Any]:
    """Which run made the results of a folder: checkpoint, fingerprint, preset; empty if nothing says it."""
    path = Path(folder) / RUN_FILE
    return read_json(path, "delete the folder and predict again", _RUN) if path.is_file() else {}
