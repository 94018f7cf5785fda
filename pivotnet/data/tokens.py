"""Sample tokens: those of a split, or those that a user names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pivotnet.annotation.format import FOLDER
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
    path = root / FOLDER / "splits" / f"{split}.txt"
    try:
        tokens = read_tokens(path)
    except FileNotFoundError as error:
        raise PivotNetError(f"split {split!r} is not annotated ({path} is missing): run pivotnet annotate") from error
    if not tokens:
        raise PivotNetError(f"split {split!r} is empty ({path}): annotate a data set that has scenes of this split")
    return tokens


def chosen_tokens(data_root: PathLike, split: str, tokens: Sequence[str] | None = None) -> list[str]:
    """The samples that the options name.

    Args:
        data_root: annotated nuScenes tree.
        split: whose samples, if ``tokens`` is None.
        tokens: sample tokens, or one path of a list in a file (lines may end in ``.npz``, as upstream's do).

    Raises:
        PivotNetError: the tree is not annotated, the split is empty, or a token belongs to no split.
    """
    if tokens is None:
        return read_split(data_root, split)
    if len(tokens) == 1 and os.path.isfile(tokens[0]):
        listed = read_tokens(tokens[0])
        if not listed:
            raise PivotNetError(f"{tokens[0]} lists no tokens: give a file with one token a line")
        return listed
    known = set()
    for name in SPLITS:
        try:
            known.update(read_split(data_root, name))
        except PivotNetError:
            if name == SPLITS[-1] and not known:
                raise
    unknown = [token for token in tokens if token not in known]
    if unknown:
        raise PivotNetError(
            f"{len(unknown)} of {len(tokens)} tokens are in no split of {data_root} (the first is {unknown[0]}): "
            "check them against customer/pivot-bezier/splits, or run pivotnet annotate"
        )
    return list(tokens)
