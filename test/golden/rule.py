"""The rule of the recordings (tools/recordings/rule.py), and where the full recordings lie."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings.rule import FULL_IMAGES, fill, images, value

__all__ = ["FULL_IMAGES", "fill", "images", "recording", "recordings", "value"]


def recordings() -> Path:
    """Folder of the full recordings: PIVOTNET_GOLDEN, or shared/golden beside the repository; skips without one."""
    default = Path(__file__).resolve().parents[3] / "shared" / "golden"
    folder = Path(os.environ.get("PIVOTNET_GOLDEN", default))
    if not folder.is_dir():
        pytest.skip(f"no recordings in {folder}: set PIVOTNET_GOLDEN to the folder that has golden_forward_*.npz")
    return folder


def recording(name: str) -> dict[str, Any]:
    """All arrays of one .npz of the recordings; skips when the file is missing."""
    path = recordings() / name
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    with np.load(path, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}
