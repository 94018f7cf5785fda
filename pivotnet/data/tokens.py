"""Sample tokens: those of a split, or those that a user names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pivotnet.annotation.folder import annotation_folder, split_path
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike, read_tokens

SPLITS = ("train", "val")
DEFAULT_DATA_ROOT = "data/nuscenes"


def read_split(data_root: PathLike, split: str) -> list[str]:
    """Sample tokens of a split ("train" or "val"), as ``pivotnet annotate`` lists them.

    Raises:
        PivotNetError: ``data_root`` is no nuScenes tree or not annotated, or the split is unknown, empty or no list of
            tokens.
    """
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
    """The samples that the options name, all of them annotated.

    Args:
        data_root: annotated nuScenes tree.
        split: whose samples, if ``tokens`` is None.
        tokens: sample tokens, or one path of a list in a file (lines may end in ``.npz``, as upstream's do).

    Raises:
        PivotNetError: there are none, or one is not annotated.
    """
    if tokens is None:
        chosen = read_split(data_root, split)
    elif len(tokens) == 1 and os.path.isfile(tokens[0]):
        chosen = read_tokens(tokens[0])
        if not chosen:
            raise PivotNetError(f"{tokens[0]} lists no tokens: give a file with one token a line")
    else:
        chosen = list(tokens)
    require_annotations(data_root, chosen)
    return chosen
