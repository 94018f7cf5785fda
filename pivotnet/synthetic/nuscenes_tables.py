"""The 13 tables of v1.0-trainval, without annotated objects: those five tables are empty."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from pivotnet.config import CAMERA_IMAGE_SIZE
from pivotnet.synthetic.plan import Plan, Scene
from pivotnet.synthetic.sensors import LIDAR

VERSION = "v1.0-trainval"
TABLES = (
    *("calibrated_sensor", "ego_pose", "log", "map", "sample", "sample_data", "scene", "sensor"),
    *("attribute", "category", "instance", "sample_annotation", "visibility"),
)


def token(*what: object) -> str:
    """Name of a record, 32 hexadecimal digits that depend on nothing but the seed and what the record is."""
    return hashlib.blake2b("/".join(map(str, what)).encode(), digest_size=16).hexdigest()


def sensor_path(scene: Scene, sample: int, channel: str) -> str:
    """Path of a sensor's file below the data set's root."""
    suffix = "pcd.bin" if channel == LIDAR else "jpg"
    return f"samples/{channel}/{scene.logfile}__{channel}__{scene.timestamps[sample]}.{suffix}"


def prior_path(location: str, seed: int) -> str:
    """Path of a location's semantic prior below the data set's root."""
    return f"maps/{token(seed, 'map', location)}.png"


class _Tables:
    """Collects the records of all tables; a record is named by its table and a key."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.records: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}

    def token(self, table: str, *key: object) -> str:
        return token(self._seed, table, *key)

    def add(self, table: str, *key: object, **fields: Any) -> None:
        self.records[table].append({"token": self.token(table, *key), **fields})

    def neighbours(self, count: int, table: str, scene: int, sample: int, *key: object) -> dict[str, str]:
        """Links to the records of the samples before and after, empty at the ends of a scene."""
        before = self.token(table, scene, sample - 1, *key) if sample else ""
        after = self.token(table, scene, sample + 1, *key) if sample + 1 < count else ""
        return {"prev": before, "next": after}


def build_tables(plan: Plan) -> dict[str, list[dict[str, Any]]]:
    """Content of every table."""
    tables = _Tables(plan.options.seed)
    for sensor in plan.scenes[0].sensors:
        modality = "lidar" if sensor.channel == LIDAR else "camera"
        tables.add("sensor", sensor.channel, channel=sensor.channel, modality=modality)
    for number, scene in enumerate(plan.scenes):
        _add_scene(tables, number, scene)
        for sample in range(len(scene.poses)):
            _add_sample(tables, number, scene, sample)
    for location in plan.towns:
        logs = [record["token"] for record in tables.records["log"] if record["location"] == location]
        path = prior_path(location, plan.options.seed)
        tables.add("map", location, category="semantic_prior", filename=path, log_tokens=logs)
    return tables.records


def _add_scene(tables: _Tables, number: int, scene: Scene) -> None:
    """A drive, its log and its sensors."""
    vehicle, rest = scene.logfile.split("-", 1)
    tables.add("log", number, logfile=scene.logfile, vehicle=vehicle, date_captured=rest[:10], location=scene.location)
    tables.add(
        "scene",
        number,
        log_token=tables.token("log", number),
        nbr_samples=len(scene.poses),
        first_sample_token=tables.token("sample", number, 0),
        last_sample_token=tables.token("sample", number, len(scene.poses) - 1),
        name=scene.name,
        description="Synthetic drive",
    )
    for sensor in scene.sensors:
        tables.add(
            "calibrated_sensor",
            number,
            sensor.channel,
            sensor_token=tables.token("sensor", sensor.channel),
            translation=sensor.translation.tolist(),
            rotation=sensor.quaternion,
            camera_intrinsic=sensor.intrinsic.tolist(),
        )


def _add_sample(tables: _Tables, number: int, scene: Scene, sample: int) -> None:
    """A sample, its ego poses and its files. The car halts for its pictures: all sensors share one pose and time."""
    count, pose, timestamp = len(scene.poses), scene.poses[sample], scene.timestamps[sample]
    tables.add(
        "sample",
        number,
        sample,
        timestamp=timestamp,
        scene_token=tables.token("scene", number),
        **tables.neighbours(count, "sample", number, sample),
    )
    for sensor in scene.sensors:
        is_lidar = sensor.channel == LIDAR
        key = (number, sample, sensor.channel)
        tables.add(
            "ego_pose",
            *key,
            timestamp=timestamp,
            rotation=[float(np.cos(pose.yaw / 2)), 0.0, 0.0, float(np.sin(pose.yaw / 2))],
            translation=[pose.x, pose.y, 0.0],
        )
        tables.add(
            "sample_data",
            *key,
            sample_token=tables.token("sample", number, sample),
            ego_pose_token=tables.token("ego_pose", *key),
            calibrated_sensor_token=tables.token("calibrated_sensor", number, sensor.channel),
            timestamp=timestamp,
            fileformat="pcd" if is_lidar else "jpg",
            is_key_frame=True,
            height=0 if is_lidar else CAMERA_IMAGE_SIZE[0],
            width=0 if is_lidar else CAMERA_IMAGE_SIZE[1],
            filename=sensor_path(scene, sample, sensor.channel),
            **tables.neighbours(count, "sample_data", *key),
        )
