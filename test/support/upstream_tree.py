"""The checkout of upstream that tests may copy, and commands in such copies."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pivotnet.annotation.folder import split_path
from support.commands import ROOT

UPSTREAM = Path(os.environ.get("PIVOTNET_UPSTREAM", ROOT / "PivotNet"))
SCRIPT = ROOT / "tools" / "upstream.sh"
needs_checkout = pytest.mark.skipif(
    not (UPSTREAM / ".git").exists(), reason="no checkout of upstream: tools/upstream.sh fetch"
)


def command(words: list[object], cwd: Path, **variables: object) -> subprocess.CompletedProcess[str]:
    """Run in the environment of a user who has installed the package, without backbone weights."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PIVOTNET", "DATA_ROOT", "CARDS"))}
    paths = os.pathsep.join([str(ROOT), *filter(None, [clean.get("PYTHONPATH")])])
    environment = {
        **{**clean, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{clean['PATH']}", "PYTHONPATH": paths},
        **{"PIVOTNET_BACKBONE_WEIGHTS": "none", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        **{key: str(value) for key, value in variables.items()},
    }
    done = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def cut_splits(data: Path) -> None:
    """Four samples to train on and two to evaluate."""
    for split, samples in (("train", 4), ("val", 2)):
        path = split_path(data, split)
        path.write_text("".join(f"{token}\n" for token in path.read_text().split()[:samples]))


def shrink_bemapnet(tree: Path) -> None:
    """As big as it is, two processes take minutes a step and more memory than many a machine has."""
    config = tree / "configs" / "bemapnet_nuscenes_effb0.py"
    text = config.read_text().replace("tgt_shape=(200, 100)", "tgt_shape=(40, 20)").replace("(21, 49", "(6, 14")
    config.write_text(text.replace("(896, 512), up_crop_ratio=0.25", "(512, 256), up_crop_ratio=0.5"))
