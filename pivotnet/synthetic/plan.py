"""What a data set will hold, decided before anything is written: towns, scenes, poses, sensors and parked cars."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from pivotnet.errors import PivotNetError
from pivotnet.synthetic import routes, scene_names
from pivotnet.synthetic.cameras import Sensor, random_rig
from pivotnet.synthetic.town import LOCATIONS, Town, build_town

TOWN_SIDE = 4  # grid places along a side of a town of scale 1
LARGEST_SCALE = 30.0
EMPTY_SCENE = 5  # of every eight scenes this one ends in the yard, where there are no map elements


@dataclass(frozen=True)
class Options:
    """What a data set is made from: equal options give equal bytes."""

    scenes: int = 8
    samples_per_scene: int = 3
    seed: int = 0
    images: bool = True
    map_scale: float = 1.0

    def check(self) -> None:
        """Refuse what cannot be made.

        Raises:
            PivotNetError: a number outside its limits.
        """
        scene_names.assign(self.scenes)
        if self.samples_per_scene < 1:
            raise PivotNetError(f"--samples-per-scene {self.samples_per_scene} is too few; choose at least 1")
        if self.seed < 0:
            raise PivotNetError(f"--seed {self.seed} is negative; choose 0 or more")
        if not 1.0 <= self.map_scale <= LARGEST_SCALE:
            raise PivotNetError(f"--map-scale {self.map_scale:g} is outside 1 to {LARGEST_SCALE:g}")

    def to_dict(self) -> dict:
        """Plain dict for JSON."""
        return dataclasses.asdict(self)


@dataclass
class Scene:
    """One drive: its name says its split (nuScenes' own lists)."""

    name: str
    location: str
    rig: list[Sensor]
    poses: list[routes.Pose]
    timestamps: list[int]  # microseconds
    logfile: str


@dataclass
class Plan:
    """A data set to be written."""

    options: Options
    towns: dict[str, Town]
    scenes: list[Scene]


def make_plan(options: Options) -> Plan:
    """Decide everything from the options; takes a second at the default size."""
    options.check()
    side = int(round(TOWN_SIDE * np.sqrt(options.map_scale)))
    towns = {
        location: build_town(location, side, np.random.default_rng([options.seed, 1, index]))
        for index, location in enumerate(LOCATIONS)
    }
    sights = {location: routes.Sights(town) for location, town in towns.items()}
    scenes = []
    start = 1_535_000_000_000_000
    for index, name in enumerate(scene_names.assign(options.scenes)):
        rng = np.random.default_rng([options.seed, 2, index])
        location = LOCATIONS[(index + index // 4) % 4]
        rig = random_rig(rng)
        poses = routes.drive(towns[location], sights[location], options.samples_per_scene, rng)
        if index % 8 == EMPTY_SCENE and len(poses) > 1:
            poses[-1] = routes.park(towns[location], rng)
        step = int(routes.spacing(options.samples_per_scene) / routes.SPEED * 1e6)
        timestamps = [start + step * sample for sample in range(len(poses))]
        vehicle = "n008" if location.startswith("boston") else "n015"
        logfile = f"{vehicle}-2018-08-23-{index // 60 % 24:02d}-{index % 60:02d}-00+0800"
        scenes.append(Scene(name, location, rig, poses, timestamps, logfile))
        start = timestamps[-1] + 60_000_000
    return Plan(options, towns, scenes)
