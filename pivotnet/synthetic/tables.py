"""The 13 tables of v1.0-trainval."""

from __future__ import annotations

from typing import Any

import numpy as np

from pivotnet.synthetic import lidar
from pivotnet.synthetic.cameras import IMAGE_HEIGHT, IMAGE_WIDTH, LIDAR
from pivotnet.synthetic.cars import CAR_CATEGORY, Car
from pivotnet.synthetic.plan import Plan, Scene
from pivotnet.synthetic.routes import Pose
from pivotnet.synthetic.tokens import Tokens

VERSION = "v1.0-trainval"
TABLES = (
    "attribute",
    "calibrated_sensor",
    "category",
    "ego_pose",
    "instance",
    "log",
    "map",
    "sample",
    "sample_annotation",
    "sample_data",
    "scene",
    "sensor",
    "visibility",
)
VISIBILITY = (("1", "v0-40"), ("2", "v40-60"), ("3", "v60-80"), ("4", "v80-100"))


def file_name(scene: Scene, sample: int, channel: str) -> str:
    """Path of a sensor's file below the data set's root."""
    suffix = "pcd.bin" if channel == LIDAR else "jpg"
    return f"samples/{channel}/{scene.logfile}__{channel}__{scene.timestamps[sample]}.{suffix}"


def mask_name(location: str, seed: int) -> str:
    """Path of a location's map mask below the data set's root."""
    return f"maps/{Tokens(seed).plain('map', location)}.png"


def yaw_quaternion(yaw: float) -> list[float]:
    """Rotation about z as (w, x, y, z)."""
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]


def build_tables(plan: Plan, cars: dict[str, list[Car]]) -> dict[str, list[dict[str, Any]]]:
    """Content of every table; ``cars`` are the parked cars of every location."""
    seed = plan.options.seed
    tokens = Tokens(seed)
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    attribute, category = tokens.plain("attribute"), tokens.plain("category")
    tables["attribute"].append(
        {"token": attribute, "name": "vehicle.parked", "description": "Vehicle is stationary for a longer time."}
    )
    tables["category"].append({"token": category, "name": CAR_CATEGORY, "description": "Passenger car.", "index": 0})
    for token, level in VISIBILITY:
        description = f"visibility of whole object is between {level[1:].replace('-', ' and ')}%"
        tables["visibility"].append({"token": token, "level": level, "description": description})
    for sensor in plan.scenes[0].rig:
        modality = "lidar" if sensor.channel == LIDAR else "camera"
        token = tokens.plain("sensor", sensor.channel)
        tables["sensor"].append({"token": token, "channel": sensor.channel, "modality": modality})
    for number, scene in enumerate(plan.scenes):
        _add_scene(tables, tokens, number, scene)
        _add_cars(tables, tokens, number, scene, cars[scene.location], category, attribute)
    logs: dict[str, list[str]] = {location: [] for location in plan.towns}
    for record in tables["log"]:
        logs[record["location"]].append(record["token"])
    for location in plan.towns:
        tables["map"].append(
            {
                "category": "semantic_prior",
                "token": tokens.plain("map", location),
                "filename": mask_name(location, seed),
                "log_tokens": logs[location],
            }
        )
    return tables


def _add_scene(tables: dict[str, list[dict[str, Any]]], tokens: Tokens, number: int, scene: Scene) -> None:
    """Log, scene, sensors, samples and their files of one drive."""
    log, scene_token = tokens.plain("log", number), tokens.plain("scene", number)
    vehicle, rest = scene.logfile.split("-", 1)
    tables["log"].append(
        {
            "token": log,
            "logfile": scene.logfile,
            "vehicle": vehicle,
            "date_captured": rest[:10],
            "location": scene.location,
        }
    )
    count = len(scene.poses)
    samples = [tokens.plain("sample", number, sample) for sample in range(count)]
    tables["scene"].append(
        {
            "token": scene_token,
            "log_token": log,
            "nbr_samples": count,
            "first_sample_token": samples[0],
            "last_sample_token": samples[-1],
            "name": scene.name,
            "description": "Synthetic drive",
        }
    )
    for sensor in scene.rig:
        tables["calibrated_sensor"].append(
            {
                "token": tokens.plain("calibrated_sensor", number, sensor.channel),
                "sensor_token": tokens.plain("sensor", sensor.channel),
                "translation": sensor.translation.tolist(),
                "rotation": sensor.quaternion,
                "camera_intrinsic": sensor.intrinsic.tolist(),
            }
        )
    for sample, (pose, timestamp) in enumerate(zip(scene.poses, scene.timestamps)):
        neighbours = _neighbours(samples, sample)
        tables["sample"].append(
            {"token": samples[sample], "timestamp": timestamp, **neighbours, "scene_token": scene_token}
        )
        for sensor in scene.rig:
            # the car halts for its pictures: all sensors share one pose and time
            own = [tokens.plain("sample_data", number, other, sensor.channel) for other in range(count)]
            tables["ego_pose"].append(
                {
                    "token": own[sample],
                    "timestamp": timestamp,
                    "rotation": yaw_quaternion(pose.yaw),
                    "translation": [pose.x, pose.y, 0.0],
                }
            )
            lidar = sensor.channel == LIDAR
            tables["sample_data"].append(
                {
                    "token": own[sample],
                    "sample_token": samples[sample],
                    "ego_pose_token": own[sample],
                    "calibrated_sensor_token": tokens.plain("calibrated_sensor", number, sensor.channel),
                    "timestamp": timestamp,
                    "fileformat": "pcd" if lidar else "jpg",
                    "is_key_frame": True,
                    "height": 0 if lidar else IMAGE_HEIGHT,
                    "width": 0 if lidar else IMAGE_WIDTH,
                    "filename": file_name(scene, sample, sensor.channel),
                    **_neighbours(own, sample),
                }
            )


def _neighbours(tokens: list[str], index: int) -> dict[str, str]:
    """Links to the records before and after, empty at the ends."""
    return {
        "prev": tokens[index - 1] if index else "",
        "next": tokens[index + 1] if index + 1 < len(tokens) else "",
    }


def _add_cars(
    tables: dict[str, list[dict[str, Any]]],
    tokens: Tokens,
    number: int,
    scene: Scene,
    cars: list[Car],
    category: str,
    attribute: str,
) -> None:
    """One instance a car that is near in any sample, one annotation for every sample where it is."""
    points = [np.bincount(_hits(scene, pose, cars) + 1, minlength=len(cars) + 1)[1:] for pose in scene.poses]
    for index, car in enumerate(cars):
        near = [sample for sample, pose in enumerate(scene.poses) if car.is_annotated(pose.x, pose.y)]
        if not near:
            continue
        instance = tokens.plain("instance", number, index)
        own = [tokens.plain("sample_annotation", number, index, sample) for sample in near]
        tables["instance"].append(
            {
                "token": instance,
                "category_token": category,
                "nbr_annotations": len(own),
                "first_annotation_token": own[0],
                "last_annotation_token": own[-1],
            }
        )
        for place, sample in enumerate(near):
            tables["sample_annotation"].append(
                {
                    "token": own[place],
                    "sample_token": tokens.plain("sample", number, sample),
                    "instance_token": instance,
                    "visibility_token": "4",
                    "attribute_tokens": [attribute],
                    "translation": [car.x, car.y, car.height / 2],
                    "size": [car.width, car.length, car.height],
                    "rotation": yaw_quaternion(car.yaw),
                    **_neighbours(own, place),
                    "num_lidar_pts": int(points[sample][index]),
                    "num_radar_pts": 0,
                }
            )


def _hits(scene: Scene, pose: Pose, cars: list[Car]) -> np.ndarray:
    """Which car every ray of the lidar hits at a pose, -1 for none."""
    sensor = next(sensor for sensor in scene.rig if sensor.channel == LIDAR)
    return lidar.cast(sensor, pose, cars)[1]
