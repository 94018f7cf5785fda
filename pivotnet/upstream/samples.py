"""Which samples a data set of the patched tree has, and their annotation files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pivotnet.annotation.format import load_annotation, to_upstream
from pivotnet.data.images import read_image
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike

__all__ = ["load_sample", "read_image", "split_tokens"]


def load_sample(path: PathLike) -> dict[str, Any]:
    """An annotated sample file, ours or upstream's, as the dict that upstream's code reads.

    Raises:
        PivotNetError: the file is missing or damaged.
    """
    return to_upstream(load_annotation(path))


def split_tokens(split_file: PathLike, anno_root: PathLike) -> list[str]:
    """Tokens of a split.

    Upstream's split files list all of nuScenes. Where all of their samples are annotated they hold; else (a mini or a
    synthetic data set) the list that ``pivotnet annotate`` has left in ANNO_ROOT/splits under the same name does.

    Raises:
        PivotNetError: samples are not annotated and there is no such list, or it is empty.
    """
    wanted = Path(split_file).read_text().split()
    try:
        annotated = {name[:-4] for name in os.listdir(anno_root) if name.endswith(".npz")}
    except FileNotFoundError:
        annotated = set()
    missing = [token for token in wanted if token not in annotated]
    if not missing:
        return wanted
    own = Path(anno_root) / "splits" / Path(split_file).name
    tokens = own.read_text().split() if own.is_file() else []
    if not tokens:
        raise PivotNetError(
            f"{len(missing)} of the {len(wanted)} samples of {split_file} have no annotation in {anno_root}, and "
            f"{own} lists no others: run tools/anno_converter/nuscenes/convert.py"
        )
    return tokens
