"""All recordings: the files of each part, how it is compared, and how it is recorded."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from pivotnet.errors import PivotNetError
from pivotnet.files import atomic_write, write_json
from recordings import golden_criterion, golden_data, golden_network, golden_small, golden_training, shim
from recordings.comparison import Row


@dataclass(frozen=True)
class Part:
    """Recordings that are compared and made together."""

    files: tuple[str, ...]
    check: Callable[..., list[Row]]  # of the files' paths
    record: Callable[[int, int], Any] | None = None  # seed, mask step -> content of the file, or a tuple of contents
    optional: bool = False  # older folders do not have it: that is said and is no miss


def _preset_parts(name: str) -> dict[str, Part]:
    network, small = golden_network, golden_small
    return {
        f"state_dict/{name}": Part(
            (f"state_dict_{name}.json",),
            lambda path: network.check_state_dict(path, name),
            lambda seed, step: network.record_state_dict(name),
        ),
        f"initialisation/{name}": Part(
            (f"initialisation_{name}.json",),
            lambda path: network.check_initialisation(path, name),
            lambda seed, step: network.record_initialisation(name, seed),
            optional=True,
        ),
        f"backbone/{name}": Part(
            (f"golden_backbone_{name}.npz",),
            lambda path: small.check_backbone(path, name),
            lambda seed, step: small.record_backbone(name, seed),
            optional=True,
        ),
        f"forward/{name}": Part(
            (f"golden_forward_{name}.npz",),
            lambda path: network.check_forward(path, name),
            lambda seed, step: network.record_forward(name, seed, step),
        ),
    }


def _parts() -> dict[str, Part]:
    criterion, data = golden_criterion, golden_data
    parts = {
        "loss": Part(("golden_loss.npz",), criterion.check_loss, criterion.record_loss),
        "matching": Part(
            ("golden_matching.npz",), criterion.check_matching, lambda seed, step: criterion.record_matching(seed)
        ),
        "postprocess": Part(
            ("golden_postprocess.npz",),
            criterion.check_postprocess,
            lambda seed, step: criterion.record_postprocess(seed),
        ),
        "transform": Part(
            ("golden_transform.npz",), data.check_transform, lambda seed, step: data.record_transform(seed)
        ),
        "ap": Part(("golden_ap.npz",), data.check_ap, lambda seed, step: data.record_ap(seed)),
        "annotation": Part(("nuscenes.tar.gz", "npz.tar.gz"), data.check_annotation),
        # cut by hand from a larger data set: crowded and empty samples, islands, split and shrunk lines
        "annotation_small": Part(("small_nuscenes.tar.gz", "small_npz.tar.gz"), data.check_annotation, optional=True),
        "evaluation": Part(("npz.tar.gz", "eval.tar.gz"), data.check_evaluation),
        "small": Part(
            ("golden_small.npz",),
            golden_small.check_small,
            lambda seed, step: golden_small.record_small(seed),
            optional=True,
        ),
        "trajectory": Part(
            ("golden_trajectory.json", "golden_gradnorm_effb0_step0.json", "golden_trajectory_sample.npz"),
            golden_training.check_trajectories,
            lambda seed, step: golden_training.record_trajectory(seed),
        ),
    }
    for name in shim.PRESETS:
        parts.update(_preset_parts(name))
    return dict(sorted(parts.items(), key=lambda item: item[0].startswith(("forward", "trajectory"))))


PARTS = _parts()  # by name ("part" or "part/preset"), cheap ones first
RECORDED = tuple(dict.fromkeys(name.split("/")[0] for name, part in PARTS.items() if part.record))


def check(folder: Path, names: Iterable[str] = (), console: Console | None = None) -> list[Row]:
    """Compare this code with the recordings in ``folder``.

    Args:
        names: only these parts ("loss", "forward", "forward/effb0", ...); all by default.
        console: where progress is shown.

    Raises:
        PivotNetError: the folder has no recordings at all, or an unknown part is asked for.
    """
    console = console or Console(stderr=True)
    known = {name.split("/")[0] for name in PARTS} | PARTS.keys()
    names = set(names)
    if names - known:
        raise PivotNetError(f"unknown part {min(names - known)!r}: choose from {', '.join(sorted(known))}")
    if not any((folder / file).is_file() for part in PARTS.values() for file in part.files):
        raise PivotNetError(f"{folder} holds no recordings (golden_*.npz): make some with tools/golden.py record")
    rows = []
    for name, part in PARTS.items():
        if names and not names & {name, name.split("/")[0]}:
            continue
        missing = [file for file in part.files if not (folder / file).is_file()]
        if missing:
            skipped = ", skipped" * part.optional
            rows.append(Row(name, 0.0, 0.0, "-", part.optional, f"{missing[0]} is missing{skipped}"))
            continue
        with console.status(f"comparing {name}"):
            try:
                rows += part.check(*(folder / file for file in part.files))
            except (PivotNetError, OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
                # a recording that cannot be read is a miss, not the end of the comparison
                rows.append(Row(name, float("nan"), float("nan"), "-", False, f"cannot be read: {error}"))
    return rows


def record(
    checkout: Path,
    folder: Path,
    seed: int,
    names: Iterable[str] = RECORDED,
    presets: Iterable[str] = shim.PRESETS,
    converter_python: str | None = None,
    mask_step: int = 8,
) -> None:
    """Run upstream on the CPU and write what it computes into ``folder``, in the layout that ``check`` reads.

    Args:
        names: which of RECORDED; the annotation archives are written where ``converter_python`` is given.
        converter_python: see golden_data.record_annotation.
        mask_step: keep every so many-th row and column of masks and their gradients.
    """
    checkout = shim.import_upstream(checkout)
    folder.mkdir(parents=True, exist_ok=True)
    console = Console()
    for name, part in PARTS.items():
        group, _, preset = name.partition("/")
        if part.record is None or group not in names or preset not in ("", *presets):
            continue
        with console.status(f"recording {name} (seed {seed})"):
            made = part.record(seed, mask_step)
            for file, content in zip(part.files, made if isinstance(made, tuple) else (made,)):
                _write(folder / file, content)
        console.print(f"recorded {name}")
    if converter_python:
        with console.status("running upstream's annotation converter"):
            golden_data.record_annotation(seed, checkout, converter_python, folder)
        console.print("recorded nuscenes.tar.gz, npz.tar.gz and eval.tar.gz")
    else:
        console.print(
            "annotation skipped, so that check will miss its archives: name a Python with nuscenes-devkit 1.1.11, "
            "shapely 1.8.5.post1, numpy 1.26.4, matplotlib 3.7, opencv, visvalingamwyatt and torch by "
            "--converter-python (upstream's converter needs shapely 1)"
        )


def _write(path: Path, content: dict[str, Any]) -> None:
    if path.suffix == ".json":
        write_json(path, content)
    else:
        with atomic_write(path) as stream:
            np.savez_compressed(stream, **content)
