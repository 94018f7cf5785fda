"""Checks of a nuScenes tree: tables, map expansion, images, annotations."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from pivotnet.annotation.expansion import expansion_path, fingerprint
from pivotnet.annotation.folder import OPTIONS_FILE, annotation_folder, sample_path, split_path
from pivotnet.config import CAMERAS, MapConfig
from pivotnet.doctor.finding import ERROR, NOTE, OK, WARNING, Finding

TOPIC = "data"
TABLES = (
    *("attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "map"),
    *("sample", "sample_annotation", "sample_data", "scene", "sensor", "visibility"),
)
LOCATIONS = ("boston-seaport", "singapore-hollandvillage", "singapore-onenorth", "singapore-queenstown")
VERSIONS = ("v1.0-trainval", "v1.0-mini", "v1.0-test")
ANNOTATE = "pivotnet annotate -d {root}"


def check_data(root: Optional[Path], default: Path) -> Iterator[Finding]:
    """The data set in ``root``; where none is given, in ``default`` if that exists."""
    if root is None:
        if not default.is_dir():
            text = f"no DATA_ROOT and no {default}: the run scripts would make synthetic data"
            yield Finding(TOPIC, NOTE, text, "unpack nuScenes there, or set DATA_ROOT")
            return
        root = default
    if not root.is_dir():
        yield Finding(TOPIC, ERROR, f"{root} does not exist", "give the folder of a nuScenes tree: DATA_ROOT")
        return
    if not (root / "samples").is_dir():
        text = f"{root} is no nuScenes tree: it has no folder samples"
        yield Finding(TOPIC, ERROR, text, "unpack nuScenes (trainval) there, or set DATA_ROOT")
        return
    yield Finding(TOPIC, OK, f"{root}")
    annotated = _tokens(root)
    yield from _check_tables(root, needed=annotated is None)
    yield from _check_expansion(root, needed=annotated is None)
    yield from _check_images(root, annotated)
    yield from _check_annotations(root, annotated)


def _tokens(root: Path) -> Optional[dict[str, list[str]]]:
    """Tokens of the annotated splits; None without a list of the train split."""
    lists = {}
    for split in ("train", "val"):
        try:
            lists[split] = split_path(root, split).read_text().split()
        except OSError:
            if split == "train":
                return None
    return lists


def _json(path: Path) -> Any:
    """A file's content, None when it cannot be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _check_tables(root: Path, needed: bool) -> Iterator[Finding]:
    found = [version for version in VERSIONS if (root / version).is_dir()]
    status = ERROR if needed else WARNING
    if not found:
        remedy = "unpack v1.0-trainval_meta.tgz there"
        yield Finding(TOPIC, status, f"no tables ({VERSIONS[0]}): annotating needs them", remedy)
    for version in found:
        missing = [f"{name}.json" for name in TABLES if not (root / version / f"{name}.json").is_file()]
        if missing:
            remedy = f"unpack {version}_meta.tgz again"
            yield Finding(TOPIC, status, f"{version} lacks {', '.join(missing)}", remedy)
        else:
            yield Finding(TOPIC, OK, f"{version}: {len(TABLES)} tables")


def _check_expansion(root: Path, needed: bool) -> Iterator[Finding]:
    paths = {location: expansion_path(root, location) for location in LOCATIONS}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        remedy = f"unpack nuScenes-map-expansion-v1.3.zip into {root / 'maps'}"
        text = f"map expansion lacks {', '.join(missing)}: annotating needs it"
        yield Finding(TOPIC, ERROR if needed else WARNING, text, remedy)
    else:
        yield Finding(TOPIC, OK, f"map expansion: {len(LOCATIONS)} locations")


def _expected_images(root: Path, annotated: Optional[dict[str, list[str]]]) -> int:
    """How many images each camera must have: one for each sample of the tables, or for each annotated one."""
    for version in VERSIONS[:2]:
        samples = _json(root / version / "sample.json")
        if isinstance(samples, list):
            return len(samples)
    return sum(len(tokens) for tokens in (annotated or {}).values())


def _check_images(root: Path, annotated: Optional[dict[str, list[str]]]) -> Iterator[Finding]:
    expected = _expected_images(root, annotated)
    counts = {}
    for camera in CAMERAS:
        try:
            with os.scandir(root / "samples" / camera) as entries:
                counts[camera] = sum(entry.name.endswith(".jpg") for entry in entries)
        except OSError:
            counts[camera] = 0
    short = {camera: count for camera, count in counts.items() if count < expected}
    if short:
        listed = ", ".join(f"{camera} {count}" for camera, count in short.items())
        remedy = "unpack all ten v1.0-trainval blobs (key frames are enough)"
        yield Finding(TOPIC, ERROR, f"images are missing: {expected} samples, but {listed}", remedy)
    else:
        yield Finding(TOPIC, OK, f"images: {min(counts.values())} from each of {len(CAMERAS)} cameras")


def _check_annotations(root: Path, annotated: Optional[dict[str, list[str]]]) -> Iterator[Finding]:
    folder, remedy = annotation_folder(root), ANNOTATE.format(root=root)
    if annotated is None:
        if any(folder.glob("*.npz")):
            text = f"{folder} has samples but no lists of the splits: annotation was interrupted, or by another program"
            yield Finding(TOPIC, ERROR, text, f"{remedy} (goes on), or with --overwrite")
        else:
            yield Finding(TOPIC, WARNING, "not annotated yet: the run scripts would do it first", remedy)
        return
    tokens = [token for split in annotated.values() for token in split]
    gone = [token for token in tokens if not sample_path(folder, token).is_file()]
    if gone:
        text = f"{len(gone)} of {len(tokens)} annotated samples are missing, such as {gone[0]}.npz"
        yield Finding(TOPIC, ERROR, text, remedy)
    for split in ("train", "val"):
        if not annotated.get(split):
            status = ERROR if split == "train" else WARNING
            yield Finding(TOPIC, status, f"no annotated sample in the {split} split", remedy)
    stale = list(_stale(root, folder))
    for text in stale:
        yield Finding(TOPIC, WARNING, text, f"{remedy} --overwrite")
    if not gone and not stale:
        sizes = ", ".join(f"{split} {len(names)}" for split, names in annotated.items())
        yield Finding(TOPIC, OK, f"annotations: {sizes} samples, up to date")


def _stale(root: Path, folder: Path) -> Iterator[str]:
    """Why the annotations are not what ``pivotnet annotate`` would write now."""
    options = _json(folder / OPTIONS_FILE)
    if not isinstance(options, dict):
        yield f"{folder / OPTIONS_FILE} is missing or damaged: nobody knows how these samples were made"
        return
    config = MapConfig()
    for name, value in options.items():
        wanted = json.loads(json.dumps(getattr(config, name, value)))
        if wanted != value:
            yield f"annotations were made with {name} {value}, this program uses {wanted}"
    for location, known in (options.get("maps") or {}).items():
        path = expansion_path(root, location)
        if path.is_file() and fingerprint(path) != known:
            yield f"annotations were made from another map of {location}"
