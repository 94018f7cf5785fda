"""``pivotnet annotate``: turn nuScenes tables and maps into annotated sample files."""

import argparse

from pivotnet.annotation.runner import annotate
from pivotnet.commands import processes


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-d", "--data-root", required=True, metavar="ROOT", help="nuScenes root folder")
    add("-v", "--version", default="v1.0-trainval", help="v1.0-trainval, v1.0-mini or v1.0-test (default: %(default)s)")
    add("--bezier", action="store_true", help="fit bezier curves too (BeMapNet's targets)")
    add("--workers", type=processes, metavar="N", help="processes (default: one per core)")
    add("--overwrite", action="store_true", help="annotate everything again, keep nothing")


def run(args: argparse.Namespace) -> int:
    print(annotate(args.data_root, args.version, args.bezier, args.workers, args.overwrite))
    return 0
