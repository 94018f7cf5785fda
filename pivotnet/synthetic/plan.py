"""What a data set will hold, decided before anything is written: towns, scenes, poses and sensors. Ego frame: x
forward, y left, z up, origin on the ground below the rear axle. Camera frame: x right, y down, z ahead. The car has six
cameras placed as on nuScenes' cars, with their usual calibration, rounded, and one lidar."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.spatial.transform import Rotation

from pivotnet.errors import PivotNetError
from pivotnet.synthetic.town import LOCATIONS, Town, at_lengths, build_town, lengths_along

TOWN_SIDE = 4  # junctions along a side of a town
SCENE_LENGTH = 140.0  # metres driven in a scene: 20 seconds
SPEED = 7.0  # metres a second
SHORTEST_SPACING = 3.5  # metres between samples: half a second, as nuScenes' key frames
EMPTY_SCENE = 5  # of every eight scenes this one ends in open land, out of sight of every map element
# Runs (first, last) of the numbers in scene-NNNN that nuScenes' own train and val splits hold; they hold more.
TRAIN_RUNS = (
    *((41, 76), (224, 264), (283, 306), (347, 386), (410, 459), (639, 679)),
    *((994, 1025), (1074, 1102), (1104, 1110)),
)
VAL_RUNS = ((92, 110), (268, 278), (552, 565), (632, 638), (794, 800), (904, 917), (919, 931), (1059, 1073))
MOST_SCENES = 400  # every fourth is for val, which has 100 names here
LIDAR = "LIDAR_TOP"
# channel: (x, y, z) metres, yaw degrees, focal length and principal point pixels
CAMERA_MODEL = {
    "CAM_FRONT": ((1.70, 0.02, 1.51), 0.0, 1266.0, (816.0, 491.0)),
    "CAM_FRONT_RIGHT": ((1.55, -0.49, 1.50), -56.0, 1261.0, (808.0, 496.0)),
    "CAM_BACK_RIGHT": ((1.01, -0.48, 1.56), -110.0, 1260.0, (793.0, 493.0)),
    "CAM_BACK": ((0.03, 0.00, 1.58), 180.0, 809.0, (829.0, 482.0)),
    "CAM_BACK_LEFT": ((1.04, 0.48, 1.59), 109.0, 1257.0, (792.0, 493.0)),
    "CAM_FRONT_LEFT": ((1.52, 0.49, 1.51), 56.0, 1273.0, (827.0, 480.0)),
}
LIDAR_TRANSLATION = (0.94, 0.0, 1.84)
LIDAR_YAW = -90.0


@dataclass(frozen=True)
class Options:
    """What a data set is made from: equal options give equal bytes."""

    scenes: int = 8
    samples_per_scene: int = 3
    seed: int = 0
    images: bool = True


@dataclass(frozen=True)
class Pose:
    """Position of the car in the map's frame, metres; yaw in radians, counter-clockwise from x."""

    x: float
    y: float
    yaw: float

    def to_ego(self, points: np.ndarray) -> np.ndarray:
        """Map coordinates to the car's frame, x forward, y left: [n, 2] -> [n, 2]."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return (points - (self.x, self.y)) @ np.array([[c, -s], [s, c]])


@dataclass
class Sensor:
    """A calibrated sensor; the rotation takes sensor axes to ego axes."""

    channel: str
    translation: np.ndarray  # [3]
    rotation: np.ndarray  # [3, 3]
    intrinsic: np.ndarray  # [3, 3], pixels; empty for the lidar

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels and depths of points in the ego frame: [n, 3] -> [n, 2], [n]; valid where the depth is positive."""
        local = (points - self.translation) @ self.rotation
        image = local @ self.intrinsic.T
        return image[:, :2] / image[:, 2:], local[:, 2]


@dataclass
class Scene:
    """One drive: its name says its split."""

    name: str
    location: str
    sensors: list[Sensor]
    brightness: float
    poses: list[Pose]
    timestamps: list[int]  # microseconds
    logfile: str


@dataclass
class Plan:
    options: Options
    towns: dict[str, Town]
    scenes: list[Scene]


def scene_names(scenes: int) -> list[str]:
    """A name for every scene. Every fourth, or the last of two or three, has one of the val split."""
    train, val = (
        (f"scene-{number:04d}" for first, last in runs for number in range(first, last + 1))
        for runs in (TRAIN_RUNS, VAL_RUNS)
    )
    of_val = max(1, min(scenes - 1, 3))
    return [next(val if scene % 4 == of_val else train) for scene in range(scenes)]


def _random_sensors(rng: np.random.Generator) -> list[Sensor]:
    """The sensors of one log, a little shaken."""
    sensors = []
    # columns: where the camera's right, down and ahead point to in the ego frame when it looks forward
    forward = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    for channel, (translation, yaw, focal, (cx, cy)) in CAMERA_MODEL.items():
        shake = rng.uniform(-1, 1, 9)
        rotation = Rotation.from_euler("zyx", [yaw + 0.8 * shake[0], 0.5 * shake[1], 0.5 * shake[2]], degrees=True)
        scale = focal * (1 + 0.004 * shake[3])
        intrinsic = np.array([[scale, 0.0, cx + 6 * shake[4]], [0.0, scale, cy + 6 * shake[5]], [0.0, 0.0, 1.0]])
        position = np.array(translation) + 0.02 * shake[6:9]
        sensors.append(Sensor(channel, position, rotation.as_matrix() @ forward, intrinsic))
    yaw_only = Rotation.from_euler("z", LIDAR_YAW, degrees=True).as_matrix()
    sensors.append(Sensor(LIDAR, np.array(LIDAR_TRANSLATION), yaw_only, np.zeros((0, 0))))
    return sensors


@lru_cache(maxsize=1)
def make_plan(options: Options) -> Plan:
    """Decide everything from the options. Raises PivotNetError: more scenes than there are names."""
    if not 1 <= options.scenes <= MOST_SCENES:
        raise PivotNetError(f"--scenes {options.scenes} is outside 1 to {MOST_SCENES}, which have names in the splits")
    towns = {
        location: build_town(location, TOWN_SIDE, np.random.default_rng([options.seed, 1, index]))
        for index, location in enumerate(LOCATIONS)
    }
    spacing = max(SHORTEST_SPACING, SCENE_LENGTH / max(1, options.samples_per_scene - 1))
    scenes = []
    start = 1_535_000_000_000_000
    for index, name in enumerate(scene_names(options.scenes)):
        rng = np.random.default_rng([options.seed, 2, index])
        location = LOCATIONS[(index + index // 4) % 4]
        poses = _drive(towns[location], options.samples_per_scene, spacing, rng)
        if index % 8 == EMPTY_SCENE and len(poses) > 1:
            poses[-1] = Pose(*map(float, rng.uniform([20.0, 20.0, -np.pi], [40.0, 40.0, np.pi])))
        timestamps = [start + int(spacing / SPEED * 1e6) * sample for sample in range(len(poses))]
        vehicle = "n008" if location.startswith("boston") else "n015"
        logfile = f"{vehicle}-2018-08-23-{index // 60:02d}-{index % 60:02d}-00+0800"
        brightness = float(rng.uniform(0.75, 1.1))
        scenes.append(Scene(name, location, _random_sensors(rng), brightness, poses, timestamps, logfile))
        start = timestamps[-1] + 60_000_000
    return Plan(options, towns, scenes)


def _drive(town: Town, samples: int, spacing: float, rng: np.random.Generator) -> list[Pose]:
    """Poses at equal distances along a way through the town, a little beside it as people drive."""
    first = rng.uniform(1.0, 30.0)
    distances = first + spacing * np.arange(samples)
    line = _way(town, distances[-1] + 1.0, rng)
    points = at_lengths(line, distances)
    ahead = at_lengths(line, distances + 1.0) - at_lengths(line, distances - 1.0)
    yaws = np.arctan2(ahead[:, 1], ahead[:, 0]) + rng.normal(0.0, 0.015, samples)
    points += rng.normal(0.0, 0.15, samples)[:, None] * np.stack([-np.sin(yaws), np.cos(yaws)], axis=1)
    return [Pose(float(x), float(y), float(yaw)) for (x, y), yaw in zip(points, yaws)]


def _way(town: Town, length: float, rng: np.random.Generator) -> np.ndarray:
    """A driving line of at least ``length`` metres from the start of a random lane on: [n, 2]."""
    starts = sorted(town.connectors)
    while True:  # a way may end where only one-way roads arrive
        lane = starts[rng.integers(len(starts))]
        line = town.roads[lane[0]].lanes[lane[1]].centre
        while lengths_along(line)[-1] < length and lane in town.connectors:
            ways = town.connectors[lane]
            lane, through = ways[rng.integers(len(ways))]
            line = np.concatenate([line, through[1:], town.roads[lane[0]].lanes[lane[1]].centre[1:]])
        if lengths_along(line)[-1] >= length:
            return line
