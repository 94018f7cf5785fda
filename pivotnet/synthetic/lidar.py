"""A lidar sweep over flat ground and parked cars, so that the files that the tables name exist and can be read."""

from __future__ import annotations

import numpy as np

from pivotnet.synthetic.cameras import Sensor
from pivotnet.synthetic.cars import CLEARANCE, Car
from pivotnet.synthetic.routes import Pose

BEAMS = np.radians(np.linspace(-30.0, 10.0, 32))  # elevations
COLUMNS = 720  # directions of a turn
RANGE = 70.0  # metres
RANGE_NOISE = 0.02  # metres, standard deviation


def directions() -> np.ndarray:
    """Unit vectors of all rays in the sensor's frame, beam by beam: [32 * COLUMNS, 3]."""
    azimuth = np.linspace(-np.pi, np.pi, COLUMNS, endpoint=False)
    elevation, azimuth = np.meshgrid(BEAMS, azimuth, indexing="ij")
    flat = np.cos(elevation)
    return np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], axis=-1).reshape(-1, 3)


def cast(sensor: Sensor, pose: Pose, cars: list[Car]) -> tuple[np.ndarray, np.ndarray]:
    """Where every ray ends: distance in metres (infinite: nowhere) and index of the car it hits (-1: none)."""
    rays = directions() @ sensor.rotation.T  # ego frame
    origin = sensor.translation
    with np.errstate(divide="ignore"):
        distance = np.where(rays[:, 2] < 0, -origin[2] / rays[:, 2], np.inf)
    hit = np.full(len(rays), -1)
    for index, car in enumerate(cars):
        if not CLEARANCE <= car.distance(pose.x, pose.y) <= RANGE:
            continue
        entry = _entry(rays, origin, pose, car)
        closer = entry < distance
        distance[closer] = entry[closer]
        hit[closer] = index
    beyond = distance > RANGE
    distance[beyond] = np.inf
    hit[beyond] = -1
    return distance, hit


def _entry(rays: np.ndarray, origin: np.ndarray, pose: Pose, car: Car) -> np.ndarray:
    """Distance at which rays of the ego frame enter the box around a car, infinite for a miss (slab test): [n]."""
    c, s = np.cos(pose.yaw), np.sin(pose.yaw)
    x, y = car.x - pose.x, car.y - pose.y
    place = np.array([c * x + s * y, c * y - s * x, car.height / 2])
    turn = car.yaw - pose.yaw
    to_car = np.array([[np.cos(turn), np.sin(turn), 0.0], [-np.sin(turn), np.cos(turn), 0.0], [0.0, 0.0, 1.0]])
    local, start = rays @ to_car.T, to_car @ (origin - place)
    half = np.array([car.length, car.width, car.height]) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = (-half - start) / local, (half - start) / local  # [n, 3]
    enter = np.nanmax(np.minimum(first, second), axis=1)
    leave = np.nanmin(np.maximum(first, second), axis=1)
    return np.where((enter > 0) & (enter <= leave), enter, np.inf)


def sweep(sensor: Sensor, pose: Pose, cars: list[Car], rng: np.random.Generator) -> bytes:
    """The points as nuScenes' .pcd.bin holds them: float32 (x, y, z, intensity, beam) in the sensor's frame."""
    distance, hit = cast(sensor, pose, cars)
    met = np.isfinite(distance)
    noisy = distance[met] + rng.normal(0.0, RANGE_NOISE, int(met.sum()))
    beam = np.repeat(np.arange(len(BEAMS)), COLUMNS)[met]
    intensity = np.where(hit[met] >= 0, 60.0, 12.0)
    points = np.concatenate([directions()[met] * noisy[:, None], intensity[:, None], beam[:, None]], axis=1)
    return points.astype("<f4").tobytes()
