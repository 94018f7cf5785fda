"""The annotation folder ROOT/customer/pivot-bezier: its options file, its finished samples, its split lists, and the
samples that a user names."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pivotnet.annotation.format import FOLDER
from pivotnet.config import MapConfig
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike, make_folder, read_json, read_tokens, write_json
from pivotnet.schema import fields, mapping, text

SPLITS = ("train", "val")
DEFAULT_DATA_ROOT = "data/nuscenes"
OPTIONS_FILE = "annotation.json"
OPTIONS = fields({"maps": mapping(text)})  # the rest is compared with this run's
_FORMAT = 1  # raised when files of an older program may not be mixed with new ones
_DRAWING = ("ego_size", "resolution", "map_size", "max_points", "mask_thickness", "result_thickness")
_AGAIN = "use --overwrite to annotate everything again"


def annotation_folder(root: PathLike) -> Path:
    return Path(root) / FOLDER


def sample_path(root: PathLike, token: str) -> Path:
    return annotation_folder(root) / f"{token}.npz"


def recipe(bezier: Any, config: MapConfig) -> dict[str, Any]:
    """Everything besides the maps that the content of a sample's file depends on, as it reads back from JSON."""
    drawing = {name: getattr(config, name) for name in _DRAWING}
    return json.loads(json.dumps({"format": _FORMAT, "bezier": bezier, **drawing}))


def open_folder(
    root: PathLike, bezier: bool, config: MapConfig, maps: Mapping[str, str], overwrite: bool = False
) -> Path:
    """Make or check the annotation folder, so that it holds samples of one recipe only; ``maps`` are the fingerprints
    by location. Raises PivotNetError: it holds samples of other options, other maps or unknown origin, which
    ``overwrite`` removes, or cannot be written."""
    folder = make_folder(annotation_folder(root))
    path = folder / OPTIONS_FILE
    options = {**recipe(bezier, config), "maps": dict(maps)}
    if overwrite:
        try:
            for old in (*folder.glob("*.npz"), *folder.glob(".*.npz.*.tmp")):  # the latter if one was killed
                old.unlink()
        except OSError as error:
            raise PivotNetError(f"cannot write {folder}: {error.strerror or error}; make it writable") from error
    elif any(folder.glob("*.npz")):
        if not path.is_file():
            raise PivotNetError(
                f"{folder} holds samples but no {OPTIONS_FILE} (upstream's converter made them?): "
                f"train on them as they are, move them away, or {_AGAIN}"
            )
        content = read_json(path, _AGAIN, OPTIONS)
        known, new = ({**side, **side["maps"], "maps": None} for side in (content, options))
        changed = [name for name in new if name in known and known[name] != new[name]]
        if changed:
            was, now = (", ".join(f"{name}={str(side[name])[:12]}" for name in changed) for side in (known, new))
            raise PivotNetError(
                f"{folder} was made with {was}, this run has {now} (maps by their SHA-256): samples of both may not be "
                f"mixed; use the old ones, or {_AGAIN}"
            )
        options["maps"] = {**content["maps"], **maps}
    write_json(path, options)
    return folder


def split_path(root: PathLike, split: str) -> Path:
    """The token list of a split (train, val or test)."""
    return annotation_folder(root) / "splits" / f"{split}.txt"


def read_split(data_root: PathLike, split: str) -> list[str]:
    """Sample tokens of a split ("train" or "val"), as ``pivotnet annotate`` lists them. Raises PivotNetError:
    ``data_root`` is no nuScenes tree or not annotated, or the split is unknown, empty or no list of tokens."""
    root = Path(data_root)
    if not (root / "samples").is_dir():
        raise PivotNetError(
            f"{root} is no nuScenes tree (it has no folder samples): give --data-root or DATA_ROOT, "
            "or make one with pivotnet synth"
        )
    path = split_path(root, split)
    try:
        tokens = read_tokens(path)
    except FileNotFoundError as error:
        raise PivotNetError(f"split {split!r} is not annotated ({path} is missing): run pivotnet annotate") from error
    if not tokens:
        raise PivotNetError(f"split {split!r} is empty ({path}): annotate a data set that has scenes of this split")
    return tokens


def require_files(folder: PathLike, tokens: Sequence[str], what: str, remedy: str) -> None:
    """Raise PivotNetError, which ends with ``remedy``, unless every sample has its FOLDER/<token>.npz."""
    exists = os.path.isdir(folder)
    present = set(os.listdir(folder)) if exists else set()
    missing = [token for token in tokens if f"{token}.npz" not in present]
    if missing:
        place = folder if exists else f"{folder}, which does not exist"
        raise PivotNetError(
            f"{len(missing)} of {len(tokens)} samples have no {what} in {place} (the first is {missing[0]}): {remedy}"
        )


def require_annotations(data_root: PathLike, tokens: Sequence[str]) -> None:
    """Raise PivotNetError unless every sample has an annotated file."""
    remedy = f"check the tokens, or run pivotnet annotate -d {data_root}"
    require_files(annotation_folder(data_root), tokens, "annotation", remedy)


def chosen_tokens(data_root: PathLike, split: str, tokens: Sequence[str] | None = None) -> list[str]:
    """The samples that the options name, all of them annotated: those of ``split``, unless ``tokens`` are given, or one
    path of a list of them in a file (lines may end in ``.npz``, as upstream's do). Raises PivotNetError: there are
    none, or one is not annotated."""
    if tokens is None:
        chosen = read_split(data_root, split)
    elif len(tokens) == 1 and os.path.isfile(tokens[0]):
        chosen = read_tokens(tokens[0])
        if not chosen:
            raise PivotNetError(f"{tokens[0]} lists no tokens: give a file with one token per line")
    else:
        chosen = list(tokens)
    require_annotations(data_root, chosen)
    return chosen
