"""Reads what annotation needs from nuScenes' tables: where each sample's cameras and car are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from pivotnet.config import CAMERAS
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike

_LIDAR = "LIDAR_TOP"
_FILE_NAME = re.compile(r"[\w-]+")


@dataclass(frozen=True)
class Sample:
    """One key frame."""

    token: str
    scene: str  # name, such as scene-0001
    location: str  # name of the map
    translation: tuple[float, float]  # x, y of the lidar's ego pose in the map, metres
    yaw: float  # of the lidar's ego pose, degrees
    image_paths: list[str]  # in config.CAMERAS' order, relative to the root
    trans: np.ndarray  # float64 [6, 3] camera to ego translation, metres
    rots: np.ndarray  # float64 [6, 3, 3] camera to ego rotation
    intrins: np.ndarray  # float64 [6, 3, 3]


def read_json(path: Path, object_hook: Callable[[dict], Any] | None = None) -> Any:
    """A JSON file's content.

    Raises:
        PivotNetError: the file is missing, unreadable, truncated or no JSON.
    """
    try:
        return json.loads(path.read_bytes(), object_hook=object_hook)
    except OSError as error:
        raise PivotNetError(f"cannot read {path}: {error.strerror or error}; unpack this part of nuScenes") from error
    except ValueError as error:
        raise PivotNetError(f"{path} is truncated or no JSON ({error}): unpack or download it again") from error


def _unit(quaternions: np.ndarray) -> np.ndarray:
    """Quaternions [n, 4] of length 1; those that are so but for rounding are left alone, as pyquaternion does."""
    squares = (quaternions**2).sum(1)
    off_unit = (np.abs(1.0 - squares) >= 1e-14) & (squares > 0)
    return quaternions / np.where(off_unit, np.sqrt(squares), 1.0)[:, None]


def rotation_matrices(quaternions: np.ndarray) -> np.ndarray:
    """Rotation matrices float64 [n, 3, 3] of quaternions [n, 4] (w, x, y, z), normalised first.

    The product of the left and the conjugate's right multiplication matrix, as pyquaternion builds it.
    """
    w, x, y, z = _unit(quaternions).T
    left = np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]]).transpose(2, 0, 1)
    right = np.array([[w, x, y, z], [-x, w, -z, y], [-y, z, w, -x], [-z, -y, x, w]]).transpose(2, 0, 1)
    return (left @ right)[:, 1:, 1:]


def yaw_degrees(quaternion: Sequence[float]) -> float:
    """Direction in the plane of the rotated x axis, degrees.

    The last bit counts: it moves where lines are cut, and a line of 8 m has 8 or 9 points. So the two sums of products
    are rounded after each step and nowhere else, as matrix products do that use fused multiply-add.
    """
    w, x, y, z = (Fraction(float(part)) for part in _unit(np.array([quaternion], np.float64))[0])
    cosine, sine = 0.0, 0.0
    for in_cosine, in_sine in ((x * x, y * x), (w * w, z * w), (-z * z, w * z), (-y * y, x * y)):
        cosine, sine = float(Fraction(cosine) + in_cosine), float(Fraction(sine) + in_sine)
    return float(np.arctan2(sine, cosine) / np.pi * 180)


def check_root(root: PathLike, version: str) -> Path:
    """The folder of the tables of ``version``.

    Raises:
        PivotNetError: ``root`` is no nuScenes tree, or lacks that version or its maps.
    """
    root = Path(root)
    if not root.is_dir():
        raise PivotNetError(f"{root} is no folder: give the nuScenes root, which holds {version}/ and maps/")
    tables = root / version
    if not (tables / "sample.json").is_file():
        there = sorted(path.parent.name for path in root.glob("*/sample.json"))
        remedy = f"choose --version from {', '.join(there)}" if there else "give the folder that holds it"
        raise PivotNetError(f"{root} is no nuScenes root with {version}/sample.json: {remedy}")
    return tables


class _Tables:
    """The rows that matter, by token."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.samples = self._rows("sample")
        self.scenes = self._by_token("scene")
        self.logs = self._by_token("log")
        self.channels = {row["token"]: row["channel"] for row in self._rows("sensor")}
        self.mounts = self._by_token("calibrated_sensor")
        self.frames = self._key_frames()
        self.poses = self._ego_poses()

    def _rows(self, name: str, object_hook: Callable[[dict], Any] | None = None) -> list:
        path = self.folder / f"{name}.json"
        rows = read_json(path, object_hook)
        if not isinstance(rows, list):
            raise PivotNetError(f"{path} holds no list of rows: unpack or download it again")
        return rows

    def _by_token(self, name: str) -> dict[str, dict]:
        return {row["token"]: row for row in self._rows(name)}

    def _key_frames(self) -> dict[tuple[str, str], tuple[str, str, str]]:
        """(sample token, channel) -> (file name, calibrated sensor token, ego pose token) of key frames.

        Nine of ten of the 2.6 million rows are no key frames: they are dropped while parsing.
        """
        wanted = {*CAMERAS, _LIDAR}

        def keep(row: dict) -> tuple | None:
            channel = self.channels[self.mounts[row["calibrated_sensor_token"]]["sensor_token"]]
            if not row["is_key_frame"] or channel not in wanted:
                return None
            place = (row["sample_token"], channel)
            return place, (row["filename"], row["calibrated_sensor_token"], row["ego_pose_token"])

        return dict(row for row in self._rows("sample_data", keep) if row)

    def _ego_poses(self) -> dict[str, dict]:
        """Ego poses of the lidar's key frames by token; the rest is dropped while parsing."""
        wanted = {pose for (_, channel), (_, _, pose) in self.frames.items() if channel == _LIDAR}
        rows = self._rows("ego_pose", lambda row: row if row["token"] in wanted else None)
        return {row["token"]: row for row in rows if row}


def read_samples(root: PathLike, version: str) -> list[Sample]:
    """All samples of a version, in the order of its sample table.

    Raises:
        PivotNetError: ``root`` is no nuScenes tree, or a table is missing, truncated or inconsistent.
    """
    folder = check_root(root, version)
    try:
        return _join(_Tables(folder))
    except (KeyError, TypeError, IndexError) as error:
        raise PivotNetError(
            f"the tables in {folder} do not fit together ({type(error).__name__}: {error}): unpack them again"
        ) from error


def _join(tables: _Tables) -> list[Sample]:
    mount_tokens = list(tables.mounts)
    mount_row = {token: row for row, token in enumerate(mount_tokens)}
    mount_rotations = rotation_matrices(np.array([tables.mounts[t]["rotation"] for t in mount_tokens]).reshape(-1, 4))
    samples = []
    for row in tables.samples:
        token = row["token"]
        if not _FILE_NAME.fullmatch(token):
            raise PivotNetError(f"sample token {token!r} in {tables.folder} is no file name: unpack the tables again")
        missing = [channel for channel in (*CAMERAS, _LIDAR) if (token, channel) not in tables.frames]
        if missing:
            raise PivotNetError(f"sample {token} in {tables.folder} has no key frame of {', '.join(missing)}")
        scene = tables.scenes[row["scene_token"]]
        pose = tables.poses[tables.frames[token, _LIDAR][2]]
        files, mounts, _ = zip(*(tables.frames[token, camera] for camera in CAMERAS))
        samples.append(
            Sample(
                token=token,
                scene=scene["name"],
                location=tables.logs[scene["log_token"]]["location"],
                translation=(pose["translation"][0], pose["translation"][1]),
                yaw=yaw_degrees(pose["rotation"]),
                image_paths=list(files),
                trans=np.array([tables.mounts[mount]["translation"] for mount in mounts], np.float64),
                rots=mount_rotations[[mount_row[mount] for mount in mounts]],
                intrins=np.array([tables.mounts[mount]["camera_intrinsic"] for mount in mounts], np.float64),
            )
        )
    return samples
