"""Writes a planned data set: into a temporary neighbour of its folder, renamed when everything is there."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Optional

import cv2
import numpy as np

from pivotnet.errors import PivotNetError
from pivotnet.synthetic import tables, worker
from pivotnet.synthetic.cars import park_cars
from pivotnet.synthetic.expansion import build_expansion
from pivotnet.synthetic.mask import map_mask
from pivotnet.synthetic.plan import Options, Plan, make_plan

MARKER = "synthetic.json"  # in a finished data set: what it was made from
FORMAT = 1  # raise when the same options give other bytes


def finished_options(folder: Path) -> Optional[dict[str, Any]]:
    """What the data set in ``folder`` was made from; None when it holds no finished synthetic data set."""
    try:
        return json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def generate(folder: Path, options: Options, workers: int, progress: Callable[[int, int], None]) -> bool:
    """Make a data set in ``folder``; ``progress(done, total)`` is told about rendered samples.

    Returns:
        False when a finished data set of the same options is there already.

    Raises:
        PivotNetError: options out of range, a folder that holds something else, an unwritable or full disk.
    """
    options.check()
    wanted = {"format": FORMAT, **options.to_dict()}
    target = folder.resolve()
    if _is_there(target, wanted):
        return False
    plan = make_plan(options)
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
    found = finished_options(folder)
    if found == wanted:
        return True
    if found is not None:
        different = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        told = ", ".join(f"{key} {found.get(key)} there, {wanted.get(key)} asked for" for key in different)
        raise PivotNetError(f"{folder} holds a synthetic data set of other options ({told}); choose another folder")
    if any(folder.iterdir()):
        raise PivotNetError(f"{folder} is not empty and no finished synthetic data set; choose another folder")
    return False


@contextlib.contextmanager
def _temporary_neighbour(target: Path) -> Iterator[Path]:
    """A fresh, locked folder beside ``target``, gone at the end unless it was renamed.

    What killed runs have left there is removed: their folders are the ones that nobody holds locked.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        with contextlib.suppress(OSError), _locked(leftover):
            shutil.rmtree(leftover, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        with _locked(temporary):
            temporary.chmod(0o777 & ~_umask())
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


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _write(root: Path, plan: Plan, workers: int, progress: Callable[[int, int], None]) -> None:
    """Tables, maps and, unless told otherwise, the sensors' files."""
    seed = plan.options.seed
    cars = {
        location: park_cars(town, np.random.default_rng([seed, 3, index]))
        for index, (location, town) in enumerate(plan.towns.items())
    }
    table_folder = root / tables.VERSION
    table_folder.mkdir()
    for name, records in tables.build_tables(plan, cars).items():
        _write_json(table_folder / f"{name}.json", records, indent=0)
    (root / "maps" / "expansion").mkdir(parents=True)
    for location, town in plan.towns.items():
        _write_json(root / "maps" / "expansion" / f"{location}.json", build_expansion(town, seed))
        _, encoded = cv2.imencode(".png", map_mask(town))
        (root / tables.mask_name(location, seed)).write_bytes(encoded.tobytes())
    if plan.options.images:
        _render(root, plan, cars, workers, progress)


def _write_json(path: Path, content: Any, indent: Optional[int] = None) -> None:
    path.write_text(json.dumps(content, indent=indent), encoding="utf-8")


def _render(
    root: Path,
    plan: Plan,
    cars: dict[str, Any],
    workers: int,
    progress: Callable[[int, int], None],
) -> None:
    """Render every sample in a pool of processes."""
    for sensor in plan.scenes[0].rig:
        (root / "samples" / sensor.channel).mkdir(parents=True)
    jobs = [(scene, sample) for scene in range(len(plan.scenes)) for sample in range(len(plan.scenes[scene].poses))]
    workers = max(1, min(workers, len(jobs)))
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=worker.start, initargs=(root, plan, cars)
    )
    progress(0, len(jobs))
    try:
        futures = [pool.submit(worker.render, scene, sample) for scene, sample in jobs]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            progress(done, len(jobs))
    except BrokenProcessPool as error:
        raise PivotNetError(
            "a rendering process died, most likely for lack of memory; choose fewer with --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
