"""Writes a planned data set: into a temporary neighbour of its folder, renamed when everything is there."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import multiprocessing
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import cv2

from pivotnet.errors import PivotNetError
from pivotnet.synthetic import map_expansion, nuscenes_tables
from pivotnet.synthetic.camera_images import Ground, draw_image, encode_jpeg
from pivotnet.synthetic.plan import Options, Plan, make_plan
from pivotnet.synthetic.sensors import LIDAR, lidar_sweep

MARKER = "synthetic.json"  # in a finished data set: what it was made from
FORMAT = 2  # raise when the same options give other bytes


def generate(folder: Path, options: Options, workers: int, progress: Callable[[int, int], None]) -> bool:
    """Make a data set in ``folder``; ``progress(done, total)`` is called as samples are drawn.

    Returns:
        False when a finished data set of the same options is there already.

    Raises:
        PivotNetError: options out of range, a folder that holds something else, an unwritable or full disk.
    """
    plan = make_plan(options)
    wanted = {"format": FORMAT, **options.to_dict()}
    target = folder.resolve()
    if _is_there(target, wanted):
        return False
    try:
        with _temporary_neighbour(target) as temporary:
            _write(temporary, plan, workers, progress)
            (temporary / MARKER).write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
            try:
                os.rename(temporary, target)
            except OSError:
                # another run may have finished the same data set in the meantime
                if _is_there(target, wanted):
                    return False
                raise
    except OSError as error:
        raise PivotNetError(
            f"cannot write {target}: {error.strerror or error}; free some space or choose another folder"
        ) from error
    return True


def _is_there(folder: Path, wanted: dict[str, Any]) -> bool:
    """Whether ``folder`` holds the wanted data set; an absent or empty folder does not.

    Raises:
        PivotNetError: it holds something else.
    """
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise PivotNetError(f"{folder} is a file; choose a folder that is empty or new")
    try:
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        if any(folder.iterdir()):
            raise PivotNetError(
                f"{folder} is not empty and no finished synthetic data set; choose another folder"
            ) from None
        return False
    different = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
    if different:
        listed = ", ".join(f"{key} {found.get(key)} there, {wanted.get(key)} asked for" for key in different)
        raise PivotNetError(f"{folder} holds a synthetic data set of other options ({listed}); choose another folder")
    return True


@contextlib.contextmanager
def _temporary_neighbour(target: Path) -> Iterator[Path]:
    """A fresh, locked folder beside ``target``, gone at the end unless it was renamed.

    What killed runs have left there is removed: their folders are the ones that nobody holds locked.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        with contextlib.suppress(OSError), _locked(leftover):
            shutil.rmtree(leftover, ignore_errors=True)
    temporary = target.parent / f".{target.name}.{secrets.token_hex(8)}.tmp"
    temporary.mkdir()
    try:
        with _locked(temporary):
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; it goes with the process. Raises OSError when another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _write(root: Path, plan: Plan, workers: int, progress: Callable[[int, int], None]) -> None:
    """Tables, maps and, unless the options say otherwise, the sensors' files."""
    seed = plan.options.seed
    for name, records in nuscenes_tables.build_tables(plan).items():
        _write_json(root / nuscenes_tables.VERSION / f"{name}.json", records, indent=0)
    for location, town in plan.towns.items():
        _write_json(root / "maps" / "expansion" / f"{location}.json", map_expansion.build_expansion(town, seed))
        (root / nuscenes_tables.prior_path(location, seed)).write_bytes(map_expansion.semantic_prior(town))
    if plan.options.images:
        for sensor in plan.scenes[0].sensors:
            (root / "samples" / sensor.channel).mkdir(parents=True)
        _write_samples(root, plan, workers, progress)


def _write_json(path: Path, content: Any, indent: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=indent), encoding="utf-8")


def _write_samples(root: Path, plan: Plan, workers: int, progress: Callable[[int, int], None]) -> None:
    """Write the sensors' files of every sample, in a pool of processes if ``workers`` are more than one."""
    jobs = [(number, sample) for number, scene in enumerate(plan.scenes) for sample in range(len(scene.poses))]
    workers = min(workers, len(jobs))
    progress(0, len(jobs))
    if workers == 1:
        writer = SampleWriter(root, plan)
        for done, job in enumerate(jobs, start=1):
            writer.write(*job)
            progress(done, len(jobs))
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (root, plan))
    try:
        futures = [pool.submit(_work, *job) for job in jobs]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            progress(done, len(jobs))
    except BrokenProcessPool as error:
        raise PivotNetError(
            f"one of {workers} drawing processes was killed (out of memory?): run again with fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


class SampleWriter:
    """Writes the sensors' files of one data set's samples below ``root``."""

    def __init__(self, root: Path, plan: Plan) -> None:
        self._root, self._plan = root, plan
        self._grounds: dict[str, Ground] = {}

    def write(self, number: int, sample: int) -> None:
        """Six JPEGs and a lidar sweep of one sample of the scene of that number."""
        scene = self._plan.scenes[number]
        if scene.location not in self._grounds:
            self._grounds[scene.location] = Ground(self._plan.towns[scene.location])
        layers = self._grounds[scene.location].around(scene.poses[sample])
        for sensor in scene.sensors:
            path = self._root / nuscenes_tables.sensor_path(scene, sample, sensor.channel)
            if sensor.channel == LIDAR:
                path.write_bytes(lidar_sweep(sensor))
            else:
                path.write_bytes(encode_jpeg(draw_image(sensor, layers, scene.brightness)))


_writer: SampleWriter | None = None  # of this worker process


def _start_worker(root: Path, plan: Plan) -> None:
    global _writer
    _writer = SampleWriter(root, plan)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)


def _end_with_parent() -> None:
    """End this process when its parent is gone: the pool's queue would never end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(number: int, sample: int) -> None:
    assert _writer is not None
    _writer.write(number, sample)
