#!/usr/bin/env python3
"""Equal to upstream? Compare this project with recordings of upstream, or make new recordings.

python tools/golden.py check DIR                                 compare; exit 1 when anything differs or is missing
python tools/golden.py record --upstream CHECKOUT --out DIR      run the pinned upstream on this CPU and record it"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import numpy as np  # noqa: E402
from recordings import golden_criterion as criterion  # noqa: E402
from recordings import golden_data as data  # noqa: E402
from recordings import golden_network as network  # noqa: E402
from recordings import golden_small as small  # noqa: E402
from recordings import golden_training as training  # noqa: E402
from recordings import shim  # noqa: E402
from recordings.comparison import Comparison, print_table  # noqa: E402
from rich.console import Console  # noqa: E402

from pivotnet.commands import OptionParser, seed  # noqa: E402
from pivotnet.errors import PivotNetError, run_command  # noqa: E402
from pivotnet.files import atomic_write, write_json  # noqa: E402


@dataclass(frozen=True)
class Part:
    """Recordings that are compared and made together."""

    files: tuple[str, ...]
    check: Callable[..., list[Comparison]]  # of what the files hold
    record: Callable[[int], Any] | None = None  # seed -> content of the file, or of each of the files
    optional: bool = False  # older folders do not have it: that is said and is no miss


# By name ("part" or "part/preset"), cheap ones first.
PARTS = {
    "loss": Part(("golden_loss.npz",), criterion.check_loss, criterion.record_loss),
    "matching": Part(("golden_matching.npz",), criterion.check_matching, criterion.record_matching),
    "postprocess": Part(("golden_postprocess.npz",), criterion.check_postprocess, criterion.record_postprocess),
    "transform": Part(("golden_transform.npz",), data.check_transform, data.record_transform),
    "ap": Part(("golden_ap.npz",), data.check_ap, data.record_ap),
    "annotation": Part(("nuscenes.tar.gz", "npz.tar.gz"), data.check_annotation),
    # cut by hand from a larger data set: crowded and empty samples, islands, split and shrunk lines
    "annotation_small": Part(("small_nuscenes.tar.gz", "small_npz.tar.gz"), data.check_annotation, optional=True),
    "evaluation": Part(("npz.tar.gz", "eval.tar.gz"), data.check_evaluation),
    "small": Part(("golden_small.npz",), small.check_small, small.record_small, optional=True),
}
for group, file, check_one, record_one, optional in (
    ("state_dict", "state_dict_{}.json", network.check_state_dict, network.record_state_dict, False),
    ("initialisation", "initialisation_{}.json", network.check_initialisation, network.record_initialisation, True),
    ("backbone", "golden_backbone_{}.npz", small.check_backbone, small.record_backbone, True),
    ("forward", "golden_forward_{}.npz", network.check_forward, network.record_forward, False),
):
    for name in shim.PRESETS:
        made = (file.format(name),), partial(check_one, name=name), partial(record_one, name=name), optional
        PARTS[f"{group}/{name}"] = Part(*made)
PARTS["trajectory"] = Part(training.FILES, training.check_trajectory, training.record_trajectory)


def _chosen(names: Iterable[str]) -> dict[str, Part]:
    """Parts by their names or the names of their groups; all if there are none."""
    names = set(names)
    known = {name.split("/")[0] for name in PARTS} | PARTS.keys()
    if names - known:
        raise PivotNetError(f"unknown part {min(names - known)!r}: choose from {', '.join(sorted(known))}")
    return {name: part for name, part in PARTS.items() if not names or names & {name, name.split("/")[0]}}


def check(folder: Path, names: Iterable[str] = ()) -> list[Comparison]:
    """Compare this code with the recordings in ``folder``: these parts ("loss", "forward/effb0", ...), or all. Raises
    PivotNetError: the folder has no recordings at all, or an unknown part is asked for."""
    chosen = _chosen(names)
    if not any((folder / file).is_file() for part in PARTS.values() for file in part.files):
        raise PivotNetError(f"{folder} holds no recordings (golden_*.npz): make some with tools/golden.py record")
    console = Console(stderr=True)
    found = []
    for name, part in chosen.items():
        unread = Comparison(name, tolerance="-")
        missing = [f"{file} is missing" for file in part.files if not (folder / file).is_file()]
        if missing:
            unread.note = f"{missing[0]}, skipped"
            unread.require(missing[0], part.optional)
            found.append(unread)
            continue
        with console.status(f"comparing {name}"):
            try:
                found += part.check(*(_read(folder / file) for file in part.files))
            except (PivotNetError, OSError, KeyError, ValueError, zipfile.BadZipFile, tarfile.TarError) as error:
                # a recording that cannot be read is a miss, not the end of the comparison
                unread.require(f"cannot be read: {error}", False)
                found.append(unread)
    return found


def record(args: argparse.Namespace) -> None:
    """Run upstream on the CPU and write what it computes, in the layout that ``check`` reads."""
    chosen = _chosen(args.parts)
    checkout = shim.import_upstream(args.upstream)
    args.out.mkdir(parents=True, exist_ok=True)
    console = Console()
    for name, part in chosen.items():
        if part.record is None:
            continue
        with console.status(f"recording {name} (seed {args.seed})"):
            made = part.record(args.seed)
            for file, content in zip(part.files, made if len(part.files) > 1 else [made]):
                _write(args.out / file, content, args.seed)
        console.print(f"recorded {name}")
    if args.converter_python:
        with console.status("running upstream's annotation converter"):
            data.record_annotation(args.seed, checkout, args.converter_python, args.out)
        console.print("recorded nuscenes.tar.gz, npz.tar.gz and eval.tar.gz")
    else:
        console.print(
            "annotation skipped, so that check will miss its archives: name a Python with nuscenes-devkit 1.1.11, "
            "shapely 1.8.5.post1, numpy 1.26.4, matplotlib 3.7, opencv, visvalingamwyatt and torch by "
            "--converter-python (upstream's converter needs shapely 1)"
        )


def _read(path: Path) -> Any:
    """JSON or arrays; of an archive the path."""
    if path.suffix == ".npz":
        return np.load(path, allow_pickle=False)
    return json.loads(path.read_text()) if path.suffix == ".json" else path


def _write(path: Path, content: dict[str, Any], seed: int) -> None:
    if path.suffix == ".json":
        write_json(path, content)
    else:
        with atomic_write(path) as stream:
            np.savez_compressed(stream, seed=np.int64(seed), **content)


def main() -> int:
    """Parse the command line and run one of the two commands; returns the exit status."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recorder = commands.add_parser("record", help="record upstream")
    recorder.add_argument("--upstream", type=Path, required=True, help="checkout of upstream at the pinned commit")
    recorder.add_argument("--out", type=Path, required=True, help="folder for the recordings")
    recorder.add_argument("--seed", type=seed, default=1234, help="seed of images, cameras, targets (default 1234)")
    recorder.add_argument("--converter-python", help="Python that can run upstream's converter (shapely 1)")
    checker = commands.add_parser("check", help="compare with recordings")
    checker.add_argument("folder", type=Path, metavar="DIR", help="folder of recordings")
    for command in (recorder, checker):
        command.add_argument("--parts", nargs="+", default=(), help="only these, such as loss or forward/effb0")
    args = parser.parse_args()
    if args.command == "record":
        record(args)
        return 0
    comparisons = check(args.folder, args.parts)
    known_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    print_table(comparisons, Console(width=None if known_width else 160))
    return int(any(one.fault for one in comparisons))


if __name__ == "__main__":
    sys.exit(run_command(main))
