"""The data set that the end-to-end tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commands import succeed


@pytest.fixture(scope="session")
def nuscenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An annotated synthetic data set: 8 samples of 4 scenes."""
    root = tmp_path_factory.mktemp("synthetic") / "nuscenes"
    succeed("synth", root, "--scenes", 4, "--samples-per-scene", 2)
    succeed("annotate", "-d", root)
    return root
