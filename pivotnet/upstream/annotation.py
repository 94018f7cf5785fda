"""tools/anno_converter/nuscenes/convert.py: upstream's options, the converter of this package."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pivotnet.annotation.runner import annotate
from pivotnet.errors import exit_on_error
from pivotnet.upstream.settings import require

FIXED = {"num_degrees": [2, 1, 3], "thickness": [1, 8], "xbound": [-30.0, 30.0, 0.15], "ybound": [-15.0, 15.0, 0.15]}


@exit_on_error()
def convert_annotations(arguments: Sequence[str] | None = None) -> None:
    """Annotate every version; exits with status 2 and one line if it cannot."""
    parser = argparse.ArgumentParser(
        description="nuScenes tables and maps -> annotated samples for PivotNet and BeMapNet"
    )
    add = parser.add_argument
    add("-d", "--data_root", default="data/nuscenes", help="nuScenes root (%(default)s)")
    add("-v", "--version", nargs="+", default=["v1.0-trainval"], help="v1.0-trainval, v1.0-mini, v1.0-test")
    add("--num_degrees", nargs="+", type=int, default=FIXED["num_degrees"])
    add("--thickness", nargs="+", type=int, default=FIXED["thickness"])
    add("--xbound", nargs=3, type=float, default=FIXED["xbound"])
    add("--ybound", nargs=3, type=float, default=FIXED["ybound"])
    add("--bezier", action="store_true", help="fit bezier curves too (BeMapNet's targets)")
    add("--overwrite", action="store_true", help="annotate everything again, keep nothing")
    args = parser.parse_args(arguments)
    require("the converter", vars(args), FIXED)
    for version in args.version:
        print(annotate(args.data_root, version, args.bezier, overwrite=args.overwrite))
