"""Checks of the user's folders: the nuScenes tree and its annotations, backbone files, the checkout of upstream."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pivotnet.annotation.expansion import expansion_path, fingerprint
from pivotnet.annotation.folder import OPTIONS, OPTIONS_FILE, annotation_folder, recipe, sample_path, split_path
from pivotnet.config import BACKBONES, CAMERAS, WEIGHT_MAGIC, MapConfig
from pivotnet.doctor.machine import ERROR, NOTE, WARNING, Finding, Machine, error, note, ok, warning
from pivotnet.errors import PivotNetError
from pivotnet.files import read_json, read_tokens
from pivotnet.launch.choices import ROOT, data_problem
from pivotnet.schema import Rule, anything, items
from pivotnet.synthetic.nuscenes_tables import TABLES
from pivotnet.synthetic.town import LOCATIONS

VERSIONS = ("v1.0-trainval", "v1.0-mini", "v1.0-test")
COMMIT_FILE = ROOT / "tools" / "upstream_commit"
# Empty where the package is installed without the repository: then there is no patch to fit either.
PINNED = COMMIT_FILE.read_text().strip() if COMMIT_FILE.is_file() else ""


def check_data(root: Path | None, default: Path) -> Iterator[Finding]:
    """The data set in ``root``; where none is given, in ``default`` if that exists."""
    if root is None and not default.is_dir():
        text = f"no DATA_ROOT and no {default}: the run scripts would make synthetic data"
        yield note("data", text, "unpack nuScenes there, or set DATA_ROOT")
        return
    root = root or default
    if problem := data_problem(root):
        yield error("data", problem, "unpack nuScenes (trainval) there, or give its folder: DATA_ROOT")
        return
    yield ok("data", f"{root}")
    lists = {split: split_path(root, split) for split in ("train", "val")}
    try:
        annotated = {split: read_tokens(path) for split, path in lists.items() if path.is_file()}
    except PivotNetError as failure:
        yield error("data", str(failure), f"pivotnet annotate -d {root}")
        return
    # Annotating needs what training does not.
    yield from _check_tables(root, WARNING if "train" in annotated else ERROR)
    yield from _check_images(root, annotated)
    yield from _check_annotations(root, annotated)


def _json(path: Path, rule: Rule) -> Any:
    try:
        return read_json(path, "", rule)
    except PivotNetError:
        return None


def _check_tables(root: Path, unfit: str) -> Iterator[Finding]:
    found = [version for version in VERSIONS if (root / version).is_dir()]
    if not found:
        text = f"no tables ({VERSIONS[0]}): annotating needs them"
        yield Finding(unfit, "data", text, "unpack v1.0-trainval_meta.tgz there")
    for version in found:
        missing = [f"{name}.json" for name in TABLES if not (root / version / f"{name}.json").is_file()]
        if missing:
            yield Finding(unfit, "data", f"{version} lacks {', '.join(missing)}", f"unpack {version}_meta.tgz again")
        else:
            yield ok("data", f"{version}: {len(TABLES)} tables")
    paths = [expansion_path(root, location) for location in LOCATIONS]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        remedy = f"unpack nuScenes-map-expansion-v1.3.zip into {root / 'maps'}"
        yield Finding(unfit, "data", f"map expansion lacks {', '.join(missing)}: annotating needs it", remedy)
    else:
        yield ok("data", f"map expansion: {len(LOCATIONS)} locations")


def _check_images(root: Path, annotated: dict[str, list[str]]) -> Iterator[Finding]:
    """Each camera has an image for each sample of the tables, or else for each annotated one."""
    tables = (_json(root / version / "sample.json", items(anything)) for version in VERSIONS[:2])
    samples: list = next((table for table in tables if table is not None), sum(annotated.values(), []))
    counts = {camera: len(list((root / "samples" / camera).glob("*.jpg"))) for camera in CAMERAS}
    short = [f"{camera} {count}" for camera, count in counts.items() if count < len(samples)]
    if short:
        remedy = "unpack all ten v1.0-trainval blobs (key frames are enough)"
        yield error("data", f"images are missing: {len(samples)} samples, but {', '.join(short)}", remedy)
    else:
        yield ok("data", f"images: {min(counts.values())} from each of {len(CAMERAS)} cameras")


def _check_annotations(root: Path, annotated: dict[str, list[str]]) -> Iterator[Finding]:
    folder, remedy = annotation_folder(root), f"pivotnet annotate -d {root}"
    if "train" not in annotated:
        if any(folder.glob("*.npz")):
            text = f"{folder} has samples but no lists of the splits: annotation was interrupted, or by another program"
            yield error("data", text, f"{remedy} (goes on), or with --overwrite")
        else:
            yield warning("data", "not annotated yet: the run scripts would do it first", remedy)
        return
    tokens = sum(annotated.values(), [])
    gone = [token for token in tokens if not sample_path(root, token).is_file()]
    if gone:
        text = f"{len(gone)} of {len(tokens)} annotated samples are missing, such as {gone[0]}.npz"
        yield error("data", text, remedy)
    for split, status in (("train", ERROR), ("val", WARNING)):
        if not annotated.get(split):
            yield Finding(status, "data", f"no annotated sample in the {split} split", remedy)
    stale = list(_stale(root, folder))
    for text in stale:
        yield warning("data", text, f"{remedy} --overwrite")
    if not gone and not stale:
        sizes = ", ".join(f"{split} {len(names)}" for split, names in annotated.items())
        yield ok("data", f"annotations: {sizes} samples, up to date")


def _stale(root: Path, folder: Path) -> Iterator[str]:
    """Why the annotations are not what ``pivotnet annotate`` would write now."""
    options = _json(folder / OPTIONS_FILE, OPTIONS)
    if options is None:
        yield f"{folder / OPTIONS_FILE} is missing or damaged: how these samples were made is unknown"
        return
    for name, wanted in recipe(options.get("bezier"), MapConfig()).items():
        if options.get(name, wanted) != wanted:
            yield f"annotations were made with {name} {options[name]}, this program uses {wanted}"
    for location, known in options["maps"].items():
        path = expansion_path(root, location)
        if path.is_file() and fingerprint(path) != known:
            yield f"annotations were made from another map of {location}"


def check_weights(folders: Sequence[Path]) -> Iterator[Finding]:
    """The backbone files in the first of ``folders`` that has them."""
    for name, backbone in BACKBONES.items():
        download = f"python3 tools/download.py {name}"
        again = f"remove it, then {download}"
        path = next((path for folder in folders if (path := folder / backbone.weight_file).is_file()), None)
        if path is None:
            text = f"{backbone.weight_file} ({name}) is not in {folders[0]}: the backbone would start untrained"
            status = WARNING if name == "swint" else NOTE
            yield Finding(status, "weights", text, f"{download}, or place the file there by hand")
            continue
        content = path.read_bytes() if os.access(path, os.R_OK) else b""
        digest = hashlib.sha256(content).hexdigest()
        if not content.startswith(WEIGHT_MAGIC):
            yield error("weights", f"{path} is no readable weight file (a web page, a pointer of Git LFS?)", again)
        elif not digest.startswith(backbone.sha256):
            text = f"{path} has SHA-256 {digest[:8]}..., not {backbone.sha256}...: it is damaged or cut off"
            yield error("weights", text, again)
        elif backbone.sha256:
            yield ok("weights", f"{path}: SHA-256 as in its name")
        else:
            yield ok("weights", f"{path}: {len(content) >> 20} MiB, SHA-256 {digest[:16]}... (none is published)")


def check_checkout(machine: Machine, folder: Path, patch: Path, named: bool) -> Iterator[Finding]:
    """Whether upstream lies in ``folder`` at the pinned commit with the patch applied; one that was ``named`` must."""
    git = "git", "-C", str(folder)
    if not (folder / "run.sh").is_file():
        if named:
            remedy = "unset it to train the built-in network"
            yield error("checkout", f"PIVOTNET_DIR={folder} is no checkout of upstream", remedy)
        else:
            yield note("checkout", f"none in {folder}: the built-in network is trained")
        return
    status, text = machine.run(*git, "rev-parse", "HEAD") or (1, "")
    if status:
        yield note("checkout", f"{folder} is no git repository: its commit is unknown")
    elif PINNED and text.strip() != PINNED:
        text = f"{folder} is at commit {text.strip()[:12]}, the patch is for {PINNED[:12]}"
        yield error("checkout", text, f"git -C {folder} checkout {PINNED}, then apply the patch")
        return
    if not patch.is_file():
        yield warning("checkout", f"{patch} is missing: cannot tell whether {folder} is patched")
        return
    undo = machine.run(*git, "apply", "--reverse", "--check", str(patch))
    apply = machine.run(*git, "apply", "--check", "--whitespace=fix", str(patch))
    if undo is None or apply is None:
        return
    remedy = f"cd {folder} && git apply --reject --whitespace=fix {patch}"
    if undo[0] == 0:
        yield ok("checkout", f"{folder} has the patch")
    elif apply[0] == 0:
        yield error("checkout", f"{folder} is not patched: it would not run here", remedy)
    else:
        text = f"{folder} differs from the patched tree (changed by hand, or an older patch)"
        yield warning("checkout", text, f"git -C {folder} checkout . first, then {remedy}")
