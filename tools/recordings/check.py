"""Compare everything that a folder of recordings holds."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from pivotnet.errors import PivotNetError
from recordings import check_criterion, check_data, check_network, shim
from recordings.verdict import Row

# file (or files) -> comparison; a file of a preset has {} for its name
CHECKS: dict[str, tuple[tuple[str, ...], Callable[[Path], list[Row]]]] = {
    "loss": (("golden_loss.npz",), lambda d: check_criterion.check_loss(d / "golden_loss.npz")),
    "matching": (("golden_matching.npz",), lambda d: check_criterion.check_matching(d / "golden_matching.npz")),
    "postprocess": (
        ("golden_postprocess.npz",),
        lambda d: check_criterion.check_postprocess(d / "golden_postprocess.npz"),
    ),
    "transform": (("golden_transform.npz",), lambda d: check_data.check_transform(d / "golden_transform.npz")),
    "ap": (("golden_ap.npz",), lambda d: check_data.check_ap(d / "golden_ap.npz")),
    "annotation": (("nuscenes.tar.gz", "npz.tar.gz"), check_data.check_annotation),
    "evaluation": (("npz.tar.gz", "eval.tar.gz"), check_data.check_evaluation),
    "trajectory": (
        ("golden_trajectory.json", "golden_trajectory_sample.npz", "golden_gradnorm_effb0_step0.json"),
        lambda d: check_network.check_trajectory(d) + check_network.check_trajectory(d, checkpointing=False, steps=2),
    ),
}
# Older folders have no recordings of the initialisation: their absence is said and is no miss.
OPTIONAL = {"initialisation"}


def _preset_checks(name: str) -> dict[str, tuple[tuple[str, ...], Callable[[Path], list[Row]]]]:
    state, start, forward = f"state_dict_{name}.json", f"initialisation_{name}.json", f"golden_forward_{name}.npz"
    return {
        f"state_dict/{name}": ((state,), lambda d: check_network.check_state_dict(d / state, name)),
        f"initialisation/{name}": ((start,), lambda d: check_network.check_initialisation(d / start, name)),
        f"forward/{name}": ((forward,), lambda d: check_network.check_forward(d / forward, name)),
    }


def all_checks() -> dict[str, tuple[tuple[str, ...], Callable[[Path], list[Row]]]]:
    """Every comparison by name ("part" or "part/preset"), cheap ones first: the files it needs, and its function."""
    checks = dict(CHECKS)
    for name in shim.PRESETS:
        checks.update(_preset_checks(name))
    return dict(sorted(checks.items(), key=lambda item: item[0].startswith(("forward", "trajectory"))))


def check(folder: Path, parts: tuple[str, ...] = (), console: Console | None = None) -> list[Row]:
    """Compare this code with the recordings in ``folder``.

    Args:
        parts: only these ("loss", "forward", "forward/effb0", ...); all by default.
        console: where progress is shown.

    Raises:
        PivotNetError: the folder has no recordings at all, or an unknown part is asked for.
    """
    console = console or Console(stderr=True)
    checks = all_checks()
    known = {name.split("/")[0] for name in checks} | checks.keys()
    if set(parts) - known:
        raise PivotNetError(f"unknown part {sorted(set(parts) - known)[0]!r}: choose from {', '.join(sorted(known))}")
    if not any((folder / file).is_file() for files, _ in checks.values() for file in files):
        raise PivotNetError(f"{folder} holds no recordings (golden_*.npz): make some with tools/golden.py record")
    rows = []
    for name, (files, function) in checks.items():
        if parts and name not in parts and name.split("/")[0] not in parts:
            continue
        missing = [file for file in files if not (folder / file).is_file()]
        if missing:
            optional = name.split("/")[0] in OPTIONAL
            rows.append(Row(name, 0.0, 0.0, "-", optional, f"{missing[0]} is missing" + ", skipped" * optional))
            continue
        with console.status(f"comparing {name}"):
            rows += _guarded(name, folder, function)
    return rows


def _guarded(name: str, folder: Path, function: Callable[[Path], list[Row]]) -> list[Row]:
    """A recording that cannot be read is a miss, not the end of the comparison."""
    try:
        return function(folder)
    except (PivotNetError, OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        return [Row(name, float("nan"), float("nan"), "-", False, f"cannot be read: {error}")]
