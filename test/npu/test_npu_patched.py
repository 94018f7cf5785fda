"""Upstream's own tree, patched, on simulated NPUs: two ranks through its run.sh, and the count of what a step asks."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
from cannsim.counters import faults
from support.commands import ROOT
from support.upstream_tree import SCRIPT, UPSTREAM, command, needs_checkout, shrink_bemapnet

from pivotnet.annotation.format import FOLDER

NEEDS = ("loguru", "tabulate", "tqdm")  # what upstream's requirement.txt adds to this package's
pytestmark = [
    pytest.mark.full,
    pytest.mark.upstream,
    needs_checkout,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in NEEDS), reason=f"upstream imports {', '.join(NEEDS)}"
    ),
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A patched checkout."""
    tree = tmp_path / "PivotNet"
    command([SCRIPT, "fetch", "--from", UPSTREAM], ROOT, PIVOTNET_DIR=tree)
    command(["git", "apply", "--whitespace=fix", ROOT / "pivotnet.patch"], tree)
    shrink_bemapnet(tree)
    return tree


@pytest.mark.parametrize("family", ["pivotnet", "bemapnet"])
def test_two_npus_train(family: str, tree: Path, tmp_path: Path):
    data, judged = tmp_path / "nuscenes", tmp_path / "contract.jsonl"
    pivotnet = [sys.executable, "-m", "pivotnet"]
    command([*pivotnet, "synth", data, "--scenes", 2, "--samples-per-scene", 1], ROOT)
    command([*pivotnet, "annotate", "--data-root", data, "--bezier"], ROOT)
    splits = data / FOLDER / "splits"
    samples = "".join((splits / f"{split}.txt").read_text() for split in ("train", "val"))
    (splits / "train.txt").write_text(samples)  # two: one step
    variables = {"CARDS": 2, "DATA_ROOT": data, "CANNSIM_CONTRACT_JSON": judged}
    done = command(["bash", "run.sh", "train", f"{family}_nuscenes_effb0", 1], tree, **variables)
    said = done.stdout + done.stderr
    assert "device Ascend910B1" in said
    assert re.search(r"step 1/1 +loss \d+\.\d+", said)
    assert list((tree / "outputs").rglob("checkpoint_epoch_0.pth"))
    found = [faults(json.loads(line)) for line in judged.read_text().splitlines()]
    # torch pads integers on the AI CPU when it gathers objects, at start and for a checkpoint
    assert len(found) >= 2 and all("aclnnConstantPadNd" in fault for line in found for fault in line), found


def test_the_count_of_a_step(tree: Path, tmp_path: Path):
    counts = tmp_path / "counts.json"
    command(
        [sys.executable, ROOT / "tools" / "upstream" / "tree.py", tree, "count", "effb0", counts],
        ROOT,
        PIVOTNET_DEVICE_COUNTERS="cannsim.counters",
    )
    found = json.loads(counts.read_text())
    total, functions = found["total"], found["functions"]
    assert 1000 < total["launches"] <= total["calls"] <= 2500 and total["strided"] < 150 and total["host_waits"] == 5
    assert sum(one["calls"] for one in functions.values()) == total["calls"]
    assert not faults({"8.5.0": functions})
