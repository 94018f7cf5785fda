"""The real upstream, patched: same annotations, checkpoints, losses and gradients as unpatched.

Needs a clean checkout at the pinned commit (PivotNet/ or PIVOTNET_UPSTREAM) and, for the unpatched side, what
tools/recordings/shim.py names. Networks have their full size, so this takes long on a CPU.
"""

import importlib.util
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from recordings.comparison import Comparison
from recordings.golden_data import compare_annotations, compare_curves
from recordings.shim import NEEDED
from support.commands import ROOT
from support.samples import unpack_hard_samples
from support.upstream_tree import SCRIPT, UPSTREAM, command, cut_splits, needs_checkout

from pivotnet.annotation.format import FOLDER

PROBE = (sys.executable, ROOT / "tools" / "upstream" / "tree.py")
COMMIT = (ROOT / "tools" / "upstream_commit").read_text().strip()
# Upstream with one and with two threads strays from itself by 5e-7 in the loss terms. A mask logit within rounding of
# zero may be decided either way: swint's pts_loss is then off by 4.1e-6 with one thread, and by 1e-7 with two.
LOSS_RELATIVE = 1e-5
# Of a gradient: as a part of its own norm, and of the norm of all. The first layers' batch norms magnify rounding:
# upstream with two threads strays from itself by 8e-3 of single gradients' own norm (the port from it by 6e-3), 1.6e-4
# in their median. Gradients that are nothing but rounding (a bias before a batch norm) stray by up to 1.5e-6 of all.
GRADIENT_OWN, GRADIENT_ALL, GRADIENT_MEDIAN = 2e-2, 1e-5, 1e-3
# A sample near a cell's edge tips by rounding, and the gradient of the layer that places it jumps: over five samples of
# effb0, upstream with two threads strays there from itself by up to 1.1e-2, the port from it by up to 2.1e-2.
JUMPY, JUMPY_OWN = "t2s_reference_points", 4e-2

pytestmark = [pytest.mark.upstream, needs_checkout]
lacks_shim = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason=f"the unpatched upstream imports {', '.join(NEEDED)}",
)


def fetched(tree: Path) -> Path:
    command([SCRIPT, "fetch", "--from", UPSTREAM], ROOT, PIVOTNET_DIR=tree)
    return tree


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    """An unpatched tree of its own."""
    return fetched(tmp_path_factory.mktemp("clean") / "PivotNet")


@pytest.fixture(scope="module")
def patched(tmp_path_factory) -> Path:
    """A patched tree, made as README.md says."""
    tree = fetched(tmp_path_factory.mktemp("patched") / "PivotNet")
    shutil.copy(ROOT / "pivotnet.patch", tree)
    command(["git", "apply", "--check", "pivotnet.patch"], tree)
    done = command(["git", "apply", "--reject", "--whitespace=fix", "pivotnet.patch"], tree)
    assert not re.search(r"warning|error|rejected", done.stderr) and not list(tree.rglob("*.rej"))
    return tree


@pytest.fixture(scope="module")
def data(patched, tmp_path_factory) -> Path:
    """A synthetic data set, annotated by the tree's converter; four samples to train on and two to evaluate."""
    root = tmp_path_factory.mktemp("synthetic") / "nuscenes"
    command([sys.executable, "-m", "pivotnet", "synth", root, "--scenes", 4, "--samples-per-scene", 2], ROOT)
    command(["python3", "tools/anno_converter/nuscenes/convert.py", "-d", root, "--bezier"], patched)
    cut_splits(root)
    return root


def test_the_patch_comes_off_without_a_trace(clean):
    for words in (("apply",), ("revert",)):
        command([SCRIPT, *words], ROOT, PIVOTNET_DIR=clean)
    status = command(["git", "status", "--porcelain"], clean).stdout
    assert status == "" and command(["git", "rev-parse", "HEAD"], clean).stdout.strip() == COMMIT


def test_annotations_are_upstreams(patched, tmp_path):
    for options in ((), ("--bezier",)):
        root = unpack_hard_samples(tmp_path)
        shutil.rmtree(root / FOLDER, ignore_errors=True)
        command(["python3", "tools/anno_converter/nuscenes/convert.py", "-d", root, *options], patched)
        comparison = Comparison("annotation", absolute=1e-9)
        if options:
            compare_curves(comparison, root / FOLDER, tmp_path / "bezier.npz")
        else:
            assert sum(compare_annotations(comparison, root / FOLDER, tmp_path / "npz")) == 8
        assert not comparison.fault


def arrays(folder: Path, tree: list[object], what: str, *words: object) -> dict[str, np.ndarray]:
    """What tools/upstream/tree.py computes in a tree."""
    command([*PROBE, *tree, what, *words, folder / "out.npz"], folder)
    with np.load(folder / "out.npz") as found:
        return dict(found)


@lacks_shim
@pytest.mark.full
def test_checkpoints_have_upstreams_names_and_order(clean, patched, tmp_path):
    wanted, found = (arrays(tmp_path, tree, "names") for tree in (["--unpatched", clean], [patched]))
    assert len(wanted) == 12
    for key in wanted:
        assert found[key].tolist() == wanted[key].tolist(), key


@lacks_shim
@pytest.mark.full
def test_a_run_goes_on_from_the_checkpoint_of_the_other_tree(clean, patched, tmp_path):
    """Weights, counters and optimiser; the step after loading is the same wherever the checkpoint was written."""
    sides: dict[str, list[object]] = {"clean": ["--unpatched", clean], "patched": [patched]}
    network = ("pivotnet", "effb0")
    for side, tree in sides.items():
        command([*PROBE, *tree, "write", *network, tmp_path / f"{side}.pth"], tmp_path)
    wanted, *others = (
        arrays(tmp_path, sides[reader], "read", *network, tmp_path / f"{writer}.pth")
        for writer, reader in (("clean", "clean"), ("clean", "patched"), ("patched", "clean"))
    )
    assert wanted["epoch"] == 4 and any(name.startswith("exp_avg_sq/") for name in wanted)
    for found in others:
        assert found.keys() == wanted.keys()
        for name, array in wanted.items():
            largest = float(np.abs(array).max(initial=0))
            np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-6 * largest, err_msg=name)


@lacks_shim
@pytest.mark.full
@pytest.mark.parametrize(
    ("family", "preset"), [("pivotnet", "effb0"), ("pivotnet", "res50"), ("pivotnet", "swint"), ("bemapnet", "effb0")]
)
def test_losses_and_gradients_are_upstreams(clean, patched, data, tmp_path, family, preset):
    token = (data / FOLDER / "splits" / "train.txt").read_text().split()[0]
    sides: list[list[object]] = [["--unpatched", clean], [patched]]
    wanted, found = (arrays(tmp_path, tree, "losses", family, preset, data, token) for tree in sides)
    assert wanted.keys() == found.keys()
    np.testing.assert_allclose(found["images"], wanted["images"], rtol=0, atol=1e-6)
    for name in (name for name in wanted if name == "total" or name.startswith("term/")):
        np.testing.assert_allclose(found[name], wanted[name], rtol=LOSS_RELATIVE)
    gradients = {name: array.astype(np.float64) for name, array in wanted.items() if name.startswith("gradient/")}
    norm = np.sqrt(sum(float(np.square(gradient).sum()) for gradient in gradients.values()))
    strayed = []
    for name, gradient in gradients.items():
        own, difference = np.linalg.norm(gradient), np.linalg.norm(found[name] - gradient)
        assert difference <= (JUMPY_OWN if JUMPY in name else GRADIENT_OWN) * own + GRADIENT_ALL * norm, name
        strayed.append(difference / max(own, GRADIENT_ALL * norm))
    assert np.median(strayed) <= GRADIENT_MEDIAN
