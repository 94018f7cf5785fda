"""Result files: what a network predicted for one sample, on disk.

FOLDER/<token>.npz holds, without pickle: ``dt_mask`` [C, rows, columns] (ids of drawn instances, 0 is background),
``dt_res.points`` float32 [sum of p, 2] (row, column) pixels, ``dt_res.offsets`` int64 [n + 1] (instance i is
points[offsets[i]:offsets[i + 1]] and has id i + 1 in the mask), ``dt_res.scores`` float32 [n] and ``dt_res.labels``
int64 [n] (index into config.CLASSES). FOLDER/run.json says which checkpoint made them. Upstream's result files, which
pickle ``dt_res``, are read too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pivotnet.annotation.npz import read_npz, write_npz
from pivotnet.config import CLASSES
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.instances import MapInstances
from pivotnet.files import PathLike, atomic_write

RUN_FILE = "run.json"


@dataclass
class SampleResult:
    """The content of a result file."""

    mask: np.ndarray  # uint8 or uint16 [C, rows, columns]
    instances: MapInstances


def result_path(folder: PathLike, token: str) -> Path:
    """Where the result of a sample lies."""
    return Path(folder) / f"{token}.npz"


def save_result(path: PathLike, result: SampleResult) -> None:
    """Write a result file; it appears whole or not at all.

    Raises:
        PivotNetError: the folder is missing, not writable, or its disk is full.
    """
    instances = result.instances
    counts = [len(points) for points in instances.points]
    arrays = {
        "dt_mask": result.mask,
        "dt_res.points": np.concatenate([np.zeros((0, 2), np.float32), *instances.points]).astype(np.float32),
        "dt_res.offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "dt_res.scores": instances.scores.astype(np.float32),
        "dt_res.labels": instances.labels.astype(np.int64),
    }
    with atomic_write(path) as stream:
        write_npz(stream, arrays)


def load_result(path: PathLike) -> SampleResult:
    """Read a result file, ours or upstream's.

    Raises:
        PivotNetError: the file is missing, truncated, of another kind, or does not fit together.
    """
    with _told(path):
        data = read_npz(path)
        instances = _from_upstream(data["dt_res"].item()) if "dt_res" in data else _from_arrays(data)
        if not len(instances.points) == len(instances.scores) == len(instances.labels):
            raise ValueError("lines, scores and labels differ in number")
        return SampleResult(_checked_mask(data["dt_mask"], instances.scores), instances)


def load_drawn(path: PathLike) -> tuple[np.ndarray, np.ndarray]:
    """What the evaluation needs of a result file, without reading the rest: the mask [C, rows, columns] and the scores
    float32 [n] of ids 1 to n in it.

    Raises:
        PivotNetError: as ``load_result``.
    """
    with _told(path):
        data = read_npz(path, lambda name: name in ("dt_mask", "dt_res", "dt_res.scores"))
        scores = _from_upstream(data["dt_res"].item()).scores if "dt_res" in data else data["dt_res.scores"]
        return _checked_mask(data["dt_mask"], scores), scores


@contextlib.contextmanager
def _told(path: PathLike) -> Iterator[None]:
    """Makes one PivotNetError of whatever a file of another kind causes."""
    try:
        yield
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise PivotNetError(
            f"{path} is no result file ({type(error).__name__}: {error}): delete it and predict the sample again"
        ) from error


def _checked_mask(mask: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """``mask``, if it is one and all of its ids have a score."""
    if mask.ndim != 3 or len(mask) != len(CLASSES) or mask.dtype.kind not in "ui":
        raise ValueError(f"dt_mask is {mask.dtype} {mask.shape}")
    if mask.size and mask.max() > len(scores):
        raise ValueError(f"dt_mask has id {mask.max()}, and there are {len(scores)} instances")
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    return mask


def _from_arrays(data: dict[str, Any]) -> MapInstances:
    points, offsets = data["dt_res.points"], data["dt_res.offsets"]
    if offsets[0] != 0 or offsets[-1] != len(points) or (np.diff(offsets) < 0).any():
        raise ValueError("the offsets do not cover the points")
    lines = [points[a:b] for a, b in zip(offsets[:-1], offsets[1:])]
    return MapInstances(lines, data["dt_res.scores"], data["dt_res.labels"])


def _from_upstream(content: dict[str, Any]) -> MapInstances:
    """Upstream's lists begin with a placeholder (None, -1, 0), because ids begin with 1; its labels begin with 1."""
    lines = [np.asarray(line, np.float32).reshape(-1, 2) for line in content["map"][1:]]
    scores = np.asarray(content["confidence_level"][1:], np.float32)
    labels = np.asarray(content["pred_label"][1:], np.int64) - 1
    return MapInstances(lines, scores, labels)


def has_result(folder: PathLike, token: str) -> bool:
    """Whether the sample has a result file that is not truncated (a .npz ends with its table of contents)."""
    path = result_path(folder, token)
    return path.is_file() and zipfile.is_zipfile(path)


def require_results(folder: PathLike, tokens: Sequence[str]) -> None:
    """Check that every sample has a result file.

    Raises:
        PivotNetError: some are missing; the message names the first.
    """
    if not Path(folder).is_dir():
        raise PivotNetError(f"there is no folder {folder} with results: make it with pivotnet evaluate --ckpt")
    there = set(os.listdir(folder))
    missing = [token for token in tokens if f"{token}.npz" not in there]
    if missing:
        raise PivotNetError(
            f"{len(missing)} of {len(tokens)} samples have no result file in {folder} (the first is {missing[0]}): "
            "predict them with pivotnet evaluate --ckpt"
        )


def checkpoint_fingerprint(path: PathLike) -> str:
    """SHA-256 of a checkpoint file, hexadecimal: results are kept for the same weights under any name.

    Raises:
        PivotNetError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    except OSError as error:
        raise PivotNetError(
            f"cannot read the checkpoint {path}: {error.strerror or error}; check the path, or train one first"
        ) from error
    return digest.hexdigest()


def describe_run(checkpoint: PathLike, preset: str) -> dict[str, Any]:
    """What run.json says about results of ``checkpoint``."""
    return {"checkpoint": str(checkpoint), "fingerprint": checkpoint_fingerprint(checkpoint), "preset": preset}


def open_folder(folder: PathLike, run: dict[str, Any]) -> None:
    """Make a folder of results, or reuse one of the same run (see ``describe_run``).

    Raises:
        PivotNetError: the folder has results of another run, or cannot be made.
    """
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PivotNetError(f"cannot make {target}: {error.strerror or error}; choose another folder") from error
    known = read_run(target)
    if known.get("fingerprint") == run["fingerprint"]:
        return
    if known or any(target.glob("*.npz")):
        made_by = known.get("checkpoint", "an unknown run")
        raise PivotNetError(
            f"{target} holds results of {made_by}, not of {run['checkpoint']}: "
            "choose another --results folder or delete this one"
        )
    with atomic_write(target / RUN_FILE, "w") as stream:
        json.dump(run, stream, indent=1)
        stream.write("\n")


def read_run(folder: PathLike) -> dict[str, Any]:
    """Which run made the results of a folder: checkpoint, fingerprint, preset; empty if nothing says it.

    Raises:
        PivotNetError: the file that says it is damaged.
    """
    path = Path(folder) / RUN_FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no object")
        return content
    except (OSError, ValueError) as error:
        raise PivotNetError(f"{path} is damaged ({error}): delete the folder and predict again") from error
