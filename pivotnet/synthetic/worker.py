"""What a rendering process does: it prepares every town once and renders one sample after another."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from pathlib import Path

import cv2
import numpy as np

from pivotnet.synthetic import ground, lidar, scenery, tables
from pivotnet.synthetic.cameras import LIDAR
from pivotnet.synthetic.cars import Car
from pivotnet.synthetic.plan import Plan
from pivotnet.synthetic.render import WEATHERS, Renderer, Textures, encode
from pivotnet.synthetic.town import LOCATIONS


class Studio:
    """Everything that renders the samples of one data set into the folder ``root``."""

    def __init__(self, root: Path, plan: Plan, cars: dict[str, list[Car]]) -> None:
        self._root = root
        self._plan = plan
        self._cars = cars
        self._renderer = Renderer(Textures(plan.options.seed))
        self._prepared: dict[str, tuple[ground.Ground, scenery.Scenery]] = {}

    def _location(self, location: str) -> tuple[ground.Ground, scenery.Scenery]:
        if location not in self._prepared:
            number = LOCATIONS.index(location)
            town = self._plan.towns[location]
            rng = np.random.default_rng([self._plan.options.seed, 4, number])
            painted = ground.prepare(town, int(rng.integers(27)))
            self._prepared[location] = painted, scenery.build_scenery(town, self._cars[location], rng)
        return self._prepared[location]

    def render(self, number: int, sample: int) -> None:
        """Write the files of one sample: six JPEGs and a lidar sweep."""
        scene = self._plan.scenes[number]
        painted, standing = self._location(scene.location)
        pose = scene.poses[sample]
        weather = WEATHERS[np.random.default_rng([self._plan.options.seed, 6, number]).integers(len(WEATHERS))]
        rng = np.random.default_rng([self._plan.options.seed, 7, number, sample])
        views = self._renderer.views_from_above(painted, pose, rng)
        for sensor in scene.rig:
            path = self._root / tables.file_name(scene, sample, sensor.channel)
            if sensor.channel == LIDAR:
                path.write_bytes(lidar.sweep(sensor, pose, self._cars[scene.location], rng))
            else:
                path.write_bytes(encode(self._renderer.image(sensor, views, standing, pose, weather, rng)))


_studio: list[Studio] = []  # of this process


def _leave_with_parent() -> None:
    """End this process when its parent is gone: the pool's queue would never tell it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def start(root: Path, plan: Plan, cars: dict[str, list[Car]]) -> None:
    """Prepare this process, one of several: OpenCV gets one thread, and the process ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    _studio[:] = [Studio(root, plan, cars)]


def render(number: int, sample: int) -> None:
    """Render one sample in a process that was started."""
    _studio[0].render(number, sample)
