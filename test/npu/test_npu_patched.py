"""Upstream's own tree, patched, through its run.sh on two simulated NPUs."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from support.commands import ROOT
from support.fake_data import make_data
from support.upstream_tree import SCRIPT, UPSTREAM, command, needs_checkout

NEEDS = ("loguru", "tabulate", "tqdm")  # what upstream's requirement.txt adds to this package's


@pytest.mark.full
@pytest.mark.upstream
@needs_checkout
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDS), reason=f"upstream imports {', '.join(NEEDS)}"
)
def test_the_patched_tree_trains_on_two_npus(tmp_path: Path):
    tree, data = tmp_path / "PivotNet", make_data(tmp_path / "nuscenes", samples=2)
    command([SCRIPT, "fetch", "--from", UPSTREAM], ROOT, PIVOTNET_DIR=tree)
    command(["git", "apply", "--whitespace=fix", ROOT / "pivotnet.patch"], tree)
    done = command(["bash", "run.sh", "train", "pivotnet_nuscenes_effb0", 1], tree, CARDS=2, DATA_ROOT=data)
    said = done.stdout + done.stderr
    assert "device Ascend910B1" in said
    assert re.search(r"step 1/1 +loss \d+\.\d+", said)
    assert list((tree / "outputs").rglob("checkpoint_epoch_0.pth"))
