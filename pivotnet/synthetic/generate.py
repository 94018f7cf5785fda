"""Writes a planned data set: into a temporary neighbour of its folder, renamed when everything is there."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pivotnet.errors import PivotNetError
from pivotnet.files import read_json
from pivotnet.pool import run_in_pool
from pivotnet.synthetic import nuscenes_tables
from pivotnet.synthetic.camera_images import Ground, draw_image
from pivotnet.synthetic.plan import CAMERA_MODEL, LIDAR, Options, Plan, Scene, make_plan

MARKER = "synthetic.json"  # in a finished data set: what it was made from
FORMAT = 3  # raise when the same options give other bytes


def generate(folder: Path, options: Options, workers: int, progress: Callable[[int, int], None]) -> bool:
    """Make a data set in ``folder``; ``progress(done, total)`` is called as samples are drawn. Returns False when a
    finished one of the same options is there already. Raises PivotNetError: options out of range, a folder that holds
    something else, an unwritable or full disk."""
    plan = make_plan(options)
    wanted = {"format": FORMAT, **asdict(options)}
    target = Path(os.path.realpath(folder))  # Path.resolve raises for a loop of links
    if _is_there(target, wanted):
        return False
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.mkdir(parents=True)
        _write(temporary, plan, workers, progress)
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


def _write(root: Path, plan: Plan, workers: int, progress: Callable[[int, int], None]) -> None:
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
        samples = [(scene, sample) for scene in plan.scenes for sample in range(len(scene.poses))]
        progress(0, len(samples))
        drawn = run_in_pool(ImageWriter(root, plan), samples, workers, "spawn")
        for done, _ in enumerate(drawn, start=1):
            progress(done, len(samples))


def _write_json(path: Path, content: Any, indent: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=indent), encoding="utf-8")


class ImageWriter:
    """Writes the images of one data set's samples below ``root``."""

    def __init__(self, root: Path, plan: Plan) -> None:
        self._root, self._towns = root, plan.towns
        self._grounds: dict[str, Ground] = {}

    def __call__(self, of: tuple[Scene, int]) -> None:
        """Six JPEGs of a sample of a scene."""
        scene, sample = of
        if scene.location not in self._grounds:
            self._grounds[scene.location] = Ground(self._towns[scene.location])
        layers = self._grounds[scene.location].around(scene.poses[sample])
        for sensor in scene.sensors:
            if sensor.channel != LIDAR:
                path = self._root / nuscenes_tables.sensor_path(scene, sample, sensor.channel)
                path.write_bytes(draw_image(sensor, layers, scene.brightness))
