"""Reads what annotation needs from nuScenes' tables: where each sample's cameras and car are, and its split."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from pivotnet.annotation.format import check_cameras
from pivotnet.config import CAMERAS
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike, read_json
from pivotnet.schema import camera_file, check, fields, file_token, flag, items, number, refuse, text

_LIDAR = "LIDAR_TOP"
_CHANNELS = (*CAMERAS, _LIDAR)
_REMEDY = "unpack the tables of nuScenes again"
_LARGEST = 4 * 2**30  # bytes of a table; sample_data.json of v1.0-trainval has 1.2 GB

# Scene numbers (first, last) of the 150 validation scenes of v1.0-trainval; its other 700 scenes are for training.
# Facts published with the data set (nuscenes.org).
_VAL_RUNS = (
    *((3, 3), (12, 18), (35, 36), (38, 39), (92, 110), (221, 221), (268, 278), (329, 332), (344, 346)),
    *((519, 524), (552, 565), (625, 627), (629, 630), (632, 638), (770, 771), (775, 775), (777, 778)),
    *((780, 784), (794, 800), (802, 802), (904, 917), (919, 931), (962, 963), (966, 969), (971, 972), (1059, 1073)),
)
VAL_SCENES = frozenset(number for first, last in _VAL_RUNS for number in range(first, last + 1))
MINI_VAL_SCENES = frozenset((103, 916))  # the other 8 scenes of v1.0-mini are for training


def _quaternion(value: Any) -> None:
    items(number(-1e3, 1e3), 4, 4)(value)
    if sum(part * part for part in value) < 1e-6:
        refuse(value, "a rotation")


def _kept(value: Any) -> None:
    if value is not None and not isinstance(value, (tuple, dict)):
        refuse(value, "a row")


def _intrinsic(value: Any) -> None:
    if value != []:
        items(items(number(-1e5, 1e5), 3, 3), 3, 3)(value)


_POSE = {"token": text, "translation": items(number(-1e6, 1e6), 3, 3), "rotation": _quaternion}  # metres
# Rows of the tables; a camera has three rows of intrinsic numbers, other sensors have none.
_ROWS = {
    "sensor": fields({"token": text, "channel": text}),
    "calibrated_sensor": fields({**_POSE, "sensor_token": text, "camera_intrinsic": _intrinsic}),
    "sample_data": fields(
        {
            **{f"{name}_token": text for name in ("sample", "calibrated_sensor", "ego_pose")},
            "is_key_frame": flag,
            "filename": camera_file,
        }
    ),
    "ego_pose": fields(_POSE),
    "scene": fields({"token": text, "name": text, "log_token": text}),
    "log": fields({"token": text, "location": file_token}),
    "sample": fields({"token": file_token, "scene_token": text}),
}


@dataclass(frozen=True)
class Sample:
    """One key frame."""

    token: str
    split: str  # train, val or test
    location: str  # name of the map
    translation: tuple[float, float]  # x, y of the lidar's ego pose in the map, metres
    yaw: float  # of the lidar's ego pose, degrees
    image_paths: list[str]  # in config.CAMERAS' order, relative to the root
    trans: np.ndarray  # float64 [6, 3] camera to ego translation, metres
    rots: np.ndarray  # float64 [6, 3, 3] camera to ego rotation
    intrins: np.ndarray  # float64 [6, 3, 3]


def split_of_scene(scene_name: str, version: str) -> str:
    """The split (train, val or test) of a scene; v1.0-mini has its own. Raises PivotNetError: the name is not of the
    form scene-0001."""
    if not re.fullmatch(r"scene-\d+", scene_name):
        raise PivotNetError(f"scene {scene_name!r} has no number: name scenes like scene-0001, splits go by number")
    if version.endswith("test"):
        return "test"
    val = MINI_VAL_SCENES if version.endswith("mini") else VAL_SCENES
    return "val" if int(scene_name[len("scene-") :]) in val else "train"


def rotation_matrices(quaternions: np.ndarray) -> np.ndarray:
    """Rotation matrices float64 [n, 3, 3] of quaternions [n, 4] (w, x, y, z) of any length but 0."""
    return Rotation.from_quat(np.roll(quaternions, -1, axis=1)).as_matrix()


def yaw_degrees(quaternion: Sequence[float]) -> float:
    """Direction in the plane of the rotated x axis, degrees. The last bit counts: it moves where lines are cut, and a
    line of 8 m has 8 or 9 points. So the two sums of products are rounded after each step and nowhere else, as matrix
    products do that use fused multiply-add; and a quaternion of length 1 but for rounding is left alone, as
    pyquaternion does."""
    parts = np.array(quaternion, np.float64)
    square = (parts**2).sum()
    if abs(1.0 - square) >= 1e-14:
        parts = parts / np.sqrt(square)
    w, x, y, z = (Fraction(float(part)) for part in parts)
    cosine, sine = 0.0, 0.0
    for in_cosine, in_sine in ((x * x, y * x), (w * w, z * w), (-z * z, w * z), (-y * y, x * y)):
        cosine, sine = float(Fraction(cosine) + in_cosine), float(Fraction(sine) + in_sine)
    return float(np.arctan2(sine, cosine) / np.pi * 180)


def read_samples(root: PathLike, version: str) -> list[Sample]:
    """All samples of a version, in the order of its sample table. Raises PivotNetError: ``root`` is no nuScenes tree,
    or a table is missing, truncated, against its rules or inconsistent."""
    folder = Path(root) / version
    if not Path(root).is_dir():
        raise PivotNetError(f"{root} is no folder: give the nuScenes root, which holds {version}/ and maps/")
    if not (folder / "sample.json").is_file():
        there = sorted(path.parent.name for path in Path(root).glob("*/sample.json"))
        remedy = f"choose --version from {', '.join(there)}" if there else "give the folder that holds it"
        raise PivotNetError(f"{root} is no nuScenes root with {version}/sample.json: {remedy}")
    try:
        return _join(folder)
    except LookupError as error:
        raise PivotNetError(
            f"the tables in {folder} do not fit together: one refers to {error}, which the other has not; {_REMEDY}"
        ) from error


def _join(folder: Path) -> list[Sample]:
    def rows(name: str, keep: Callable[[dict], Any] | None = None) -> list:
        """A table's rows, or what ``keep`` makes of them while they are parsed; it drops rows by None, unchecked."""
        rule = items(_kept if keep else _ROWS[name])
        return [row for row in read_json(folder / f"{name}.json", _REMEDY, rule, keep, _LARGEST) if row is not None]

    def by_token(name: str, keep: Callable[[dict], Any] | None = None) -> dict[str, dict]:
        return {row["token"]: row for row in rows(name, keep)}

    channels = {row["token"]: row["channel"] for row in rows("sensor")}
    mounts = by_token("calibrated_sensor")

    def key_frame(row: dict) -> tuple | None:
        """Nine of ten of the 2.6 million rows are no key frames."""
        if row.get("is_key_frame") is False:
            return None
        _ROWS["sample_data"](row)
        channel = channels[mounts[row["calibrated_sensor_token"]]["sensor_token"]]
        if channel not in _CHANNELS:
            return None
        return (row["sample_token"], channel), (row["filename"], row["calibrated_sensor_token"], row["ego_pose_token"])

    frames = dict(rows("sample_data", key_frame))
    wanted = {pose for (_, channel), (*_, pose) in frames.items() if channel == _LIDAR}

    def pose_of_lidar(row: dict) -> dict | None:
        text(row.get("token"))
        if row["token"] not in wanted:
            return None
        _ROWS["ego_pose"](row)
        return row

    poses = by_token("ego_pose", pose_of_lidar)
    scenes, logs = by_token("scene"), by_token("log")
    rotations = dict(zip(mounts, rotation_matrices(np.array([mount["rotation"] for mount in mounts.values()]))))
    samples: dict[str, Sample] = {}
    for row in rows("sample"):
        token, scene = row["token"], scenes[row["scene_token"]]
        missing = [channel for channel in _CHANNELS if (token, channel) not in frames]
        if missing:
            raise PivotNetError(f"sample {token} in {folder} has no key frame of {', '.join(missing)}: {_REMEDY}")
        pose = poses[frames[token, _LIDAR][2]]
        files, used, _ = zip(*(frames[token, camera] for camera in CAMERAS))
        intrinsics = [mounts[mount]["camera_intrinsic"] for mount in used]
        if token in samples or not all(intrinsics):
            what = "is there twice" if token in samples else "has a camera without camera_intrinsic"
            raise PivotNetError(f"sample {token} in {folder} {what}: {_REMEDY}")
        samples[token] = Sample(
            token=token,
            split=split_of_scene(scene["name"], folder.name),
            location=logs[scene["log_token"]]["location"],
            translation=(pose["translation"][0], pose["translation"][1]),
            yaw=yaw_degrees(pose["rotation"]),
            image_paths=list(files),
            trans=np.array([mounts[mount]["translation"] for mount in used], np.float64),
            rots=np.stack([rotations[mount] for mount in used]),
            intrins=np.array(intrinsics, np.float64),
        )
        check(lambda own: check_cameras(own.image_paths, own.rots, own.intrins), samples[token], folder, _REMEDY)
    return list(samples.values())
