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
    """Folder of the recordings: PIVOTNET_GOLDEN, or those that are committed beside this file."""
    return Path(os.environ.get("PIVOTNET_GOLDEN", Path(__file__).parent / "recordings"))


def recording(name: str) -> dict[str, Any]:
    """All arrays of one .npz of the recordings; skips when the file is missing."""
    path = recordings() / name
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    with np.load(path, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}
