"""Writes a planned data set: into a temporary neighbour of its folder, renamed when everything is there. Its images
show the ground, projected as the camera model says, with sky above and haze far away."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely
from shapely.geometry import LineString, Polygon
from shapely.ops import substring

from pivotnet.config import CAMERA_IMAGE_SIZE
from pivotnet.console import interrupted_by_sigterm, progress
from pivotnet.errors import PivotNetError
from pivotnet.files import read_json
from pivotnet.pool import run_in_pool
from pivotnet.synthetic import nuscenes_tables
from pivotnet.synthetic.plan import CAMERA_MODEL, LIDAR, Options, Plan, Pose, Sensor, make_plan

MARKER = "synthetic.json"  # in a finished data set: what it was made from
FORMAT = 4  # raise when the same options give other bytes
NEAR, FAR = 1.0, 120.0  # metres ahead of a camera between which the ground is drawn
HALF_VIEW = 1.1  # metres to either side a metre ahead, a little more than the widest camera sees
HAZE_START, HAZE_DEPTH = 25.0, 40.0  # metres
KERB_WIDTH = 0.28  # metres, outside the boundary line
LINE_WIDTH = 0.18
STRIPE = 0.55  # metres: width of a stripe of a crossing, and of the gap after it
DASH, DASH_GAP = 3.0, 3.0
SUBPIXEL_BITS = 4  # of the coordinates given to OpenCV
JPEG_QUALITY = 90
# BGR
ASPHALT = (92, 90, 88)
GRASS = (62, 112, 88)
KERB = (205, 208, 210)
WHITE = (232, 234, 234)
YELLOW = (60, 185, 230)
ZENITH, HAZE = np.array([215, 150, 95]), np.array([235, 220, 205])
Layer = tuple[tuple[int, int, int], np.ndarray]  # colour and polygons, object [k]


@interrupted_by_sigterm()
def generate(folder: Path, options: Options, workers: int) -> bool:
    """Make a data set in ``folder``. Returns False when a finished one of the same options is there already. Raises
    PivotNetError: options out of range, a folder that holds something else, an unwritable or full disk."""
    plan = make_plan(options)
    wanted = {"format": FORMAT, **asdict(options)}
    target = Path(os.path.realpath(folder))  # Path.resolve raises for a loop of links
    if _is_there(target, wanted):
        return False
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.mkdir(parents=True)
        _write(temporary, plan, workers)
        (temporary / MARKER).write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
        os.rename(temporary, target)
    except OSError as error:
        if _is_there(target, wanted):  # another run has finished the same data set in the meantime
            return False
        raise PivotNetError(
            f"cannot write {target}: {error.strerror or error}; free some space or choose another folder"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # unless it was renamed
    return True


def _is_there(folder: Path, wanted: dict[str, Any]) -> bool:
    """Whether ``folder`` holds the wanted data set; an absent or empty folder does not. Raises PivotNetError: it holds
    something else."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise PivotNetError(f"{folder} is a file; choose a folder that is empty or new")
    try:
        found = read_json(folder / MARKER, "")
    except PivotNetError:
        if any(folder.iterdir()):
            raise PivotNetError(
                f"{folder} is not empty and no finished synthetic data set; choose another folder"
            ) from None
        return False
    different = sorted(key for key in wanted if found.get(key) != wanted[key])
    if different:
        listed = ", ".join(f"{key} {found.get(key)} there, {wanted[key]} asked for" for key in different)
        raise PivotNetError(f"{folder} holds a synthetic data set of other options ({listed}); choose another folder")
    return True


def _write(root: Path, plan: Plan, workers: int) -> None:
    """Tables, maps and, unless the options say otherwise, images."""
    seed = plan.options.seed
    for name, records in nuscenes_tables.build_tables(plan).items():
        _write_json(root / nuscenes_tables.VERSION / f"{name}.json", records, indent=0)
    for location, town in plan.towns.items():
        _write_json(root / "maps" / "expansion" / f"{location}.json", nuscenes_tables.build_expansion(town, seed))
        (root / nuscenes_tables.prior_path(location, seed)).write_bytes(nuscenes_tables.semantic_prior(town))
    if plan.options.images:
        for camera in CAMERA_MODEL:
            (root / "samples" / camera).mkdir(parents=True)
        samples = [(number, sample) for number, scene in enumerate(plan.scenes) for sample in range(len(scene.poses))]
        # Workers make the plan anew: a pool can hang where one dies while much is handed to another.
        drawn = run_in_pool(partial(_write_images, root, plan.options), samples, workers, "spawn")
        for _ in progress(drawn, "synth", len(samples)):
            pass


def _write_json(path: Path, content: Any, indent: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=indent), encoding="utf-8")


@lru_cache
def ground_of(options: Options, location: str) -> list[Layer]:
    """What lies on the grass of a town, to be drawn in this order, in the map's frame."""
    town = make_plan(options).towns[location]
    paved = town.paved()
    dividers = [divider for road in town.roads for divider in road.dividers]
    dashed = [dash for layer, line in dividers if layer == "lane_divider" for dash in _dashes(line)]
    solid = [line for layer, line in dividers if layer == "road_divider"]
    corners = np.stack([crossing.corners for road in town.roads for crossing in road.crossings])
    edges = [*corners[:, :2], *corners[:, 2:]]
    return [
        (KERB, np.array([paved.buffer(KERB_WIDTH, quad_segs=2, join_style="mitre")])),
        (ASPHALT, np.array([paved])),
        (YELLOW if town.drive_right else WHITE, _bands(solid)),
        (WHITE, np.concatenate([_bands(dashed), _bands(edges), *map(_stripes, corners)])),
    ]


def around(pose: Pose, layers: list[Layer]) -> list[Layer]:
    """What of a town's layers is within sight of the car, in the ego frame."""
    reach = 1.5 * FAR
    window = shapely.box(pose.x - reach, pose.y - reach, pose.x + reach, pose.y + reach)
    shapely.prepare(window)
    found = []
    for colour, polygons in layers:
        near = polygons[shapely.intersects(window, polygons)]
        found.append((colour, shapely.transform(shapely.intersection(near, window), pose.to_ego)))
    return found


def _bands(lines: list[np.ndarray]) -> np.ndarray:
    """Painted lines as polygons: object [k]."""
    return np.array([LineString(line).buffer(LINE_WIDTH / 2, cap_style="flat") for line in lines], object)


def _dashes(line: np.ndarray) -> list[np.ndarray]:
    """The painted pieces of a dashed line."""
    whole = LineString(line)
    starts = np.arange(0.0, whole.length - DASH / 2, DASH + DASH_GAP)
    return [np.array(substring(whole, start, start + DASH).coords) for start in starts]


def _stripes(corners: np.ndarray) -> np.ndarray:
    """The stripes of a crossing, which lie along the traffic: object [k]."""
    near, far = corners[1] - corners[0], corners[2] - corners[3]  # the long sides, both from right to left
    starts = np.arange(STRIPE / 2, np.hypot(*near) - STRIPE, 2 * STRIPE) / np.hypot(*near)
    ends = starts + STRIPE / np.hypot(*near)
    sides = [corners[0] + np.outer(at, near) for at in (starts, ends)]
    sides += [corners[3] + np.outer(at, far) for at in (ends, starts)]
    return shapely.polygons(np.stack(sides, axis=1))


def draw_image(sensor: Sensor, layers: list[Layer], brightness: float) -> bytes:
    """One camera's JPEG (900 x 1600) of what lies on the grass, given in the ego frame."""
    height, width = CAMERA_IMAGE_SIZE
    rows = np.arange(height)
    rays = sensor.rotation @ np.linalg.solve(sensor.intrinsic, [np.full(height, width / 2), rows, np.ones(height)])
    depth = sensor.translation[2] / np.maximum(-rays[2], 1e-6)  # [rows] of the ground, huge above the horizon
    horizon = int(np.argmax(rays[2] < 0))
    sky = np.clip(1 - rows / horizon, 0, 1)[:, None]
    image = np.empty((height, width, 3), np.uint8)
    image[:] = (ZENITH * sky + HAZE * (1 - sky)).astype(np.uint8)[:, None]
    view = _view(sensor)

    def pixels(ground: np.ndarray) -> np.ndarray:
        return sensor.project(np.pad(ground, ((0, 0), (0, 1))))[0] * 2**SUBPIXEL_BITS

    for colour, polygons in [(GRASS, np.array([view])), *layers]:
        parts = shapely.get_parts(shapely.intersection(polygons, view))
        for polygon in shapely.transform(parts[shapely.area(parts) > 0], pixels):
            rings = [np.round(shapely.get_coordinates(ring)).astype(np.int32) for ring in shapely.get_rings(polygon)]
            cv2.fillPoly(image, rings, colour, cv2.LINE_AA, SUBPIXEL_BITS)
    far = slice(horizon, int(np.argmax(depth < HAZE_START)))
    clear = np.exp(-(depth[far] - HAZE_START) / HAZE_DEPTH)[:, None, None]
    image[far] = image[far] * clear + HAZE * (1 - clear)
    image = cv2.convertScaleAbs(image, alpha=brightness)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _view(sensor: Sensor) -> Polygon:
    """The ground in front of a camera, in the ego frame: a trapezium."""
    ahead = sensor.rotation[:2, 2] / np.hypot(*sensor.rotation[:2, 2])
    aside = HALF_VIEW * np.array([-ahead[1], ahead[0]])
    corners = [NEAR * (ahead + aside), NEAR * (ahead - aside), FAR * (ahead - aside), FAR * (ahead + aside)]
    return Polygon(sensor.translation[:2] + np.array(corners))


def _write_images(root: Path, options: Options, of: tuple[int, int]) -> None:
    """The images of a sample of a scene, by their numbers, below ``root``."""
    scene, sample = make_plan(options).scenes[of[0]], of[1]
    layers = around(scene.poses[sample], ground_of(options, scene.location))
    for sensor in scene.sensors:
        if sensor.channel != LIDAR:
            path = root / nuscenes_tables.sensor_path(scene, sample, sensor.channel)
            path.write_bytes(draw_image(sensor, layers, scene.brightness))
