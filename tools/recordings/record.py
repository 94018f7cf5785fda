"""Record a whole folder of goldens from a checkout of upstream."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from pivotnet.files import atomic_write
from recordings import record_criterion, record_data, record_network, shim

PARTS = ("state_dict", "initialisation", "forward", "loss", "matching", "postprocess", "transform", "ap", "trajectory")


def record(
    checkout: Path,
    folder: Path,
    seed: int,
    parts: tuple[str, ...] = PARTS,
    presets: tuple[str, ...] = shim.PRESETS,
    converter_python: str | None = None,
    mask_step: int = 8,
) -> None:
    """Run upstream on the CPU and write what it computes into ``folder``, in the layout that ``check`` reads.

    Args:
        parts: which of PARTS; the annotation archives are written where ``converter_python`` is given.
        converter_python: see record_data.record_annotation.
        mask_step: keep every so many-th row and column of masks and their gradients.
    """
    checkout = shim.import_upstream(checkout)
    folder.mkdir(parents=True, exist_ok=True)
    console = Console()
    jobs: dict[str, Callable[[], Any]] = {}
    for preset in presets:
        jobs[f"state_dict/{preset}"] = _job(record_network.record_state_dict, preset)
        jobs[f"initialisation/{preset}"] = _job(record_network.record_initialisation, preset, seed)
        jobs[f"forward/{preset}"] = _job(record_network.record_forward, preset, seed, mask_step)
    jobs["loss"] = _job(record_criterion.record_loss, seed, mask_step)
    jobs["matching"] = _job(record_criterion.record_matching, seed)
    jobs["postprocess"] = _job(record_criterion.record_postprocess, seed)
    jobs["transform"] = _job(record_data.record_transform, seed)
    jobs["ap"] = _job(record_data.record_ap, seed)
    jobs["trajectory"] = _job(record_network.record_trajectory, seed)
    for name, job in jobs.items():
        part, _, preset = name.partition("/")
        if part in parts:
            with console.status(f"recording {name} (seed {seed})"):
                _write(folder, part, preset, job())
            console.print(f"recorded {name}")
    if converter_python:
        with console.status("running upstream's annotation converter"):
            record_data.record_annotation(seed, checkout, converter_python, folder)
        console.print("recorded nuscenes.tar.gz, npz.tar.gz and eval.tar.gz")
    else:
        console.print(
            "annotation skipped, so that check will miss its archives: name a Python with nuscenes-devkit 1.1.11, "
            "shapely 1.8.5.post1, numpy 1.26.4, matplotlib 3.7, opencv, visvalingamwyatt and torch by "
            "--converter-python (upstream's converter needs shapely 1)"
        )


def _job(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return lambda: function(*arguments)


def _write(folder: Path, part: str, preset: str, result: Any) -> None:
    if part in ("state_dict", "initialisation"):
        _write_json(folder / f"{part}_{preset}.json", result)
    elif part == "forward":
        _write_npz(folder / f"golden_forward_{preset}.npz", result)
    elif part == "trajectory":
        trajectory, norms, sample = result
        _write_json(folder / "golden_trajectory.json", trajectory)
        _write_json(folder / "golden_gradnorm_effb0_step0.json", norms)
        _write_npz(folder / "golden_trajectory_sample.npz", sample)
    else:
        _write_npz(folder / f"golden_{part}.npz", result)


def _write_json(path: Path, content: Any) -> None:
    with atomic_write(path, "w") as stream:
        json.dump(content, stream, indent=1)


def _write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with atomic_write(path) as stream:
        np.savez_compressed(stream, **arrays)
