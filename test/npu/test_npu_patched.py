"""Upstream's own tree, patched, through its run.sh on two simulated NPUs."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.fake_data import make_data

ROOT = Path(__file__).resolve().parents[2]
UPSTREAM = Path(os.environ.get("PIVOTNET_UPSTREAM", ROOT / "PivotNet"))
NEEDS = ("loguru", "tabulate", "tqdm")  # what upstream's requirement.txt adds to this package's


@pytest.mark.full
@pytest.mark.upstream
@pytest.mark.skipif(not (UPSTREAM / ".git").exists(), reason="no checkout of upstream: tools/upstream.sh fetch")
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDS), reason=f"upstream imports {', '.join(NEEDS)}"
)
def test_the_patched_tree_trains_on_two_npus(tmp_path: Path):
    tree, data = tmp_path / "PivotNet", make_data(tmp_path / "nuscenes", samples=2, image_size=(900, 1600))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PIVOTNET_P")}
    environment.update(
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}",
        PYTHONPATH=os.pathsep.join([str(ROOT), environment["PYTHONPATH"]]),
        PIVOTNET_DIR=str(tree),
        PIVOTNET_BACKBONE_WEIGHTS="none",
        CARDS="2",
        DATA_ROOT=str(data),
        OMP_NUM_THREADS="1",
    )

    def run(*words: object) -> str:
        command = [str(word) for word in words]
        folder = tree if tree.exists() else ROOT
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return done.stdout + done.stderr

    run(ROOT / "tools" / "upstream.sh", "fetch", "--from", UPSTREAM)
    run("git", "apply", "--whitespace=fix", ROOT / "pivotnet.patch")
    said = run("bash", "run.sh", "train", "pivotnet_nuscenes_effb0", 1)
    assert "device Ascend910B1" in said
    assert re.search(r"step 1/1 +loss \d+\.\d+", said)
    assert list((tree / "outputs").rglob("checkpoint_epoch_0.pth"))
