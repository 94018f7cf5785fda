"""The 13 tables of v1.0-trainval, without annotated objects (those five tables are empty), and the two maps of a town:
its map expansion of version 1.3 (JSON) and its semantic prior (PNG)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import shapely
from scipy.spatial.transform import Rotation

from pivotnet.config import CAMERA_IMAGE_SIZE
from pivotnet.synthetic.plan import LIDAR, Plan, Scene
from pivotnet.synthetic.town import Town

VERSION = "v1.0-trainval"
TABLES = (
    *("calibrated_sensor", "ego_pose", "log", "map", "sample", "sample_data", "scene", "sensor"),
    *("attribute", "category", "instance", "sample_annotation", "visibility"),
)

LAYERS = (
    *("polygon", "line", "node", "drivable_area", "road_segment", "road_block", "lane", "ped_crossing", "walkway"),
    *("stop_line", "carpark_area", "lane_connector", "road_divider", "lane_divider", "traffic_light"),
)
PRIOR_RESOLUTION = 0.1  # metres a pixel, as the devkit takes it to be


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


class _Records:
    """Collects the records of some tables; a record is named by the scope, its table and a key."""

    def __init__(self, tables: Sequence[str], *scope: object) -> None:
        self._scope = scope
        self.tables: dict[str, list[dict[str, Any]]] = {name: [] for name in tables}

    def token(self, table: str, *key: object) -> str:
        return token(*self._scope, table, *key)

    def add(self, table: str, *key: object, **fields: Any) -> str:
        """Append a record, whose key is its number if none is given; returns its token."""
        name = self.token(table, *(key or [len(self.tables[table])]))
        self.tables[table].append({"token": name, **fields})
        return name

    def neighbours(self, count: int, table: str, scene: int, sample: int, *key: object) -> dict[str, str]:
        """Links to the records of the samples before and after, empty at the ends of a scene."""
        before = self.token(table, scene, sample - 1, *key) if sample else ""
        after = self.token(table, scene, sample + 1, *key) if sample + 1 < count else ""
        return {"prev": before, "next": after}


def build_tables(plan: Plan) -> dict[str, list[dict[str, Any]]]:
    tables = _Records(TABLES, plan.options.seed)
    for sensor in plan.scenes[0].sensors:
        modality = "lidar" if sensor.channel == LIDAR else "camera"
        tables.add("sensor", sensor.channel, channel=sensor.channel, modality=modality)
    for number, scene in enumerate(plan.scenes):
        _add_scene(tables, number, scene)
        for sample in range(len(scene.poses)):
            _add_sample(tables, number, scene, sample)
    for location in plan.towns:
        logs = [record["token"] for record in tables.tables["log"] if record["location"] == location]
        path = prior_path(location, plan.options.seed)
        tables.add("map", location, category="semantic_prior", filename=path, log_tokens=logs)
    return tables.tables


def _add_scene(tables: _Records, number: int, scene: Scene) -> None:
    """A drive, its log and its sensors."""
    vehicle, rest = scene.logfile.split("-", 1)
    tables.add("log", number, logfile=scene.logfile, vehicle=vehicle, date_captured=rest[:10], location=scene.location)
    first, last = (tables.token("sample", number, sample) for sample in (0, len(scene.poses) - 1))
    samples = {"nbr_samples": len(scene.poses), "first_sample_token": first, "last_sample_token": last}
    about = {"name": scene.name, "description": "Synthetic drive"}
    tables.add("scene", number, log_token=tables.token("log", number), **samples, **about)
    for sensor in scene.sensors:
        x, y, z, w = Rotation.from_matrix(sensor.rotation).as_quat().tolist()
        mount: dict[str, Any] = {"sensor_token": tables.token("sensor", sensor.channel)}
        mount |= {"translation": sensor.translation.tolist(), "rotation": [w, x, y, z]}
        mount |= {"camera_intrinsic": sensor.intrinsic.tolist()}
        tables.add("calibrated_sensor", number, sensor.channel, **mount)


def _add_sample(tables: _Records, number: int, scene: Scene, sample: int) -> None:
    """A sample, its ego poses and its files. The car halts for its pictures: all sensors share one pose and time."""
    count, pose, timestamp = len(scene.poses), scene.poses[sample], scene.timestamps[sample]
    links = tables.neighbours(count, "sample", number, sample)
    tables.add("sample", number, sample, timestamp=timestamp, scene_token=tables.token("scene", number), **links)
    rotation = [float(np.cos(pose.yaw / 2)), 0.0, 0.0, float(np.sin(pose.yaw / 2))]
    for sensor in scene.sensors:
        is_lidar = sensor.channel == LIDAR
        key = (number, sample, sensor.channel)
        tables.add("ego_pose", *key, timestamp=timestamp, rotation=rotation, translation=[pose.x, pose.y, 0.0])
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


def semantic_prior(town: Town) -> bytes:
    """PNG file: 255 on roads, 0 elsewhere; row 0 is the northern edge."""
    size = int(round(town.extent / PRIOR_RESOLUTION))
    mask = np.zeros((size, size), np.uint8)
    for part in shapely.get_parts(town.paved()):
        rings = [shapely.get_coordinates(ring) for ring in shapely.get_rings(part)]
        pixels = [np.stack([ring[:, 0], town.extent - ring[:, 1]], axis=1) / PRIOR_RESOLUTION for ring in rings]
        cv2.fillPoly(mask, [np.round(ring).astype(np.int32) for ring in pixels], 255)
    return cv2.imencode(".png", mask)[1].tobytes()


def build_expansion(town: Town, seed: int) -> dict[str, Any]:
    """The content of the JSON file. Layers of what a town does not have, and the graph of its lanes, are empty."""
    expansion = _Records(LAYERS, seed, "map", town.location)
    known: dict[tuple[float, float], str] = {}  # nodes: equal coordinates share one

    def nodes(points: np.ndarray) -> list[str]:
        for x, y in points.tolist():
            if (x, y) not in known:
                known[x, y] = expansion.add("node", x=x, y=y)
        return [known[x, y] for x, y in points.tolist()]

    def line(points: np.ndarray) -> str:
        return expansion.add("line", node_tokens=nodes(points))

    def polygon(ring: np.ndarray) -> str:
        return expansion.add("polygon", exterior_node_tokens=nodes(ring), holes=[])

    def marks(line: np.ndarray) -> list[dict[str, str]]:  # a dashed line's segments
        return [{"node_token": name, "segment_type": "SINGLE_DASHED_WHITE"} for name in nodes(line)]

    segments = []
    for ring, is_intersection in town.segments:
        outline = polygon(ring)
        area = expansion.add("drivable_area", polygon_tokens=[outline])
        fields = {"polygon_token": outline, "is_intersection": is_intersection, "drivable_area_token": area}
        segments.append(expansion.add("road_segment", **fields))
    for road, segment in zip(town.roads, segments):
        for layer, points in road.dividers:
            painted = line(points)
            if layer == "road_divider":
                expansion.add(layer, line_token=painted, road_segment_token=segment)
            else:
                expansion.add(layer, line_token=painted, lane_divider_segments=marks(points))
        for crossing in road.crossings:
            expansion.add("ped_crossing", polygon_token=polygon(crossing.corners), road_segment_token=segment)
        for lane in road.lanes:
            expansion.add(
                "lane",
                polygon_token=polygon(np.concatenate([lane.right, lane.left[::-1]])),
                lane_type="CAR",
                from_edge_line_token=line(np.stack([lane.right[0], lane.left[0]])),
                to_edge_line_token=line(np.stack([lane.right[-1], lane.left[-1]])),
                left_lane_divider_segments=marks(lane.left),
                right_lane_divider_segments=marks(lane.right),
            )
    graph: dict[str, Any] = {"arcline_path_3": {}, "connectivity": {}}
    return {**expansion.tables, **graph, "canvas_edge": [town.extent, town.extent], "version": "1.3"}
