"""The published README's own commands, on a checkout of upstream: from the clone to the AP table and a resumed run.

They run in a folder and an environment of their own, in which the package pivotnet is not installed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from support.commands import ROOT
from support.script_copy import FULL, PERFORMANCE, TITLE, ScriptCopy, final_result, losses
from support.upstream_tree import UPSTREAM, cut_splits, needs_checkout, shrink_bemapnet

from pivotnet.annotation.format import FOLDER

pytestmark = [pytest.mark.upstream, needs_checkout]
COMMIT = (ROOT / "tools" / "upstream_commit").read_text().strip()
STEP_7 = f"""\
git clone https://github.com/wenjie710/PivotNet.git
cp -f pivotnet.patch PivotNet
cd PivotNet
git checkout {COMMIT}
git apply --reject --whitespace=fix pivotnet.patch
pip install -r requirement.txt
"""
ANNOTATE = "python3 tools/anno_converter/nuscenes/convert.py -d ./data/nuscenes"
# Upstream's eval.py asks for CUDA; on a CPU its tensors stay where they are.
EVALUATE = """\
import runpy, sys, torch
torch.Tensor.cuda = lambda self: self
sys.path.insert(0, "tools/evaluation")
sys.argv[0] = "tools/evaluation/eval.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class User:
    """A folder with this repository's files, and the shell of somebody who works in it."""

    def __init__(self, folder: Path) -> None:
        self.scripts = ScriptCopy(folder / "repository")
        self.root, self.tree = self.scripts.root, self.scripts.root / "PivotNet"
        shutil.copy(ROOT / "pivotnet.patch", self.root)
        subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
        (site,) = (folder / "env").glob("lib/python*/site-packages")
        (site / "packages.pth").write_text(sysconfig.get_path("purelib"))  # not to install gigabytes again
        # pictures of upstream's README are left out, a checkout may lack them
        (folder / "git" / "info").mkdir(parents=True)
        (folder / "git" / "info" / "sparse-checkout").write_text("/*\n!/assets/figures/\n")
        settings = {"core.sparseCheckout": "true", f"url.{UPSTREAM}.insteadOf": STEP_7.split()[2]}
        self.environment = self.scripts.environment
        for name in [*filter(re.compile("PIVOTNET|PYTHON").match, self.environment)]:
            del self.environment[name]
        self.environment.update(
            PATH=f"{folder / 'env' / 'bin'}{os.pathsep}{self.environment['PATH']}",
            GIT_TEMPLATE_DIR=str(folder / "git"),
            GIT_CONFIG_COUNT=str(len(settings)),
            PIVOTNET_DEVICE="cpu",
        )
        for number, (key, value) in enumerate(settings.items()):
            self.environment.update({f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value})

    def types(self, commands: str, folder: Path, fails: bool = False) -> str:
        """Commands, one after the other; returns what they print."""
        words = ["bash", "-ec", commands]
        done = subprocess.run(words, cwd=folder, env=self.environment, capture_output=True, text=True)
        assert bool(done.returncode) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def user(tmp_path_factory) -> User:
    """After step 7 and the annotation of six samples in the tree."""
    user = User(tmp_path_factory.mktemp("user"))
    user.types(STEP_7, user.root)
    user.types("python3 -m pivotnet synth PivotNet/data/nuscenes --scenes 4 --samples-per-scene 2", user.root)
    user.types(ANNOTATE, user.tree)
    cut_splits(user.tree / "data" / "nuscenes")
    return user


def test_the_tree_finds_the_package_beside_it_from_any_folder(user, tmp_path):
    assert STEP_7 in (ROOT / "README.md").read_text()
    data, split = user.tree / "data" / "nuscenes" / FOLDER, user.tree / "assets" / "splits" / "nuscenes" / "val.txt"
    for command, start in (
        (f"python3 '{user.tree}/tools/evaluation/eval.py' '{data}' none '{split}'", "none/"),
        (f"bash '{user.tree}/run.sh' train none 1", "there is no configuration configs/none.py: choose one of"),
    ):
        said = user.types(command, tmp_path, fails=True)
        assert said.startswith(f"error: {start}") and said.count("\n") == 1
    shutil.copytree(user.tree, tmp_path / "PivotNet", ignore=shutil.ignore_patterns("data", ".git"))
    for command in ("bash run.sh train none 1", ANNOTATE):
        said = user.types(command, tmp_path / "PivotNet", fails=True)
        assert said.startswith("error: no package pivotnet: move this tree into") and said.count("\n") == 1


def _train_and_evaluate(user: User, folder: Path, options: tuple[object, ...], case: str) -> tuple[Path, Path, str]:
    """Two steps an epoch; returns folder, checkpoint and AP table, which is that of upstream's own eval.py."""
    output, data = folder / "run", user.tree / "data" / "nuscenes"
    status, out, err = user.scripts.run(FULL, *options, "--epochs", 1, "--output", output)
    assert status == 0, out + err
    result = final_result(out)
    assert "step 2/2  loss" in out and (result["RankSize"], result["CaseName"]) == ("2", case)
    (saved,) = (output / "checkpoints").iterdir()
    table = re.search(r"^\+-.*-\+$", out, re.MULTILINE | re.DOTALL)
    assert table
    user.types(f"git worktree add '{folder}/clean' {COMMIT}", user.tree)
    (folder / "eval.py").write_text(EVALUATE)
    words = f"'{data / FOLDER}' '{output}/evaluation/results' '{data / FOLDER}/splits/val.txt'"
    assert table[0] in user.types(f"python3 ../eval.py {words}", folder / "clean")
    return output, saved, table[0]


def _resume(user: User, output: Path, saved: Path) -> None:
    status, out, err = user.scripts.run(FULL, "--resume", output, "--epochs", 2)
    assert status == 0 and f"going on from {saved}" in out, out + err
    assert [step for step, *_ in losses(output)] == list(range(4)) and "mAP_hard" in final_result(out)
    summary = json.loads((output / "summary.json").read_text())
    assert (summary["start_step"], summary["steps"], summary["finished"]) == (2, 4, True)


@pytest.mark.full
def test_pivotnet_is_trained_evaluated_and_resumed(user, tmp_path):
    options = ("--preset", "effb0", "--cards", 2)
    status, _, err = user.scripts.run(PERFORMANCE, *options, "--steps", 2)
    assert status == 1 and "error: the backbone file efficientnet-b0-355c32eb.pth is neither in" in err
    user.environment["PIVOTNET_BACKBONE_WEIGHTS"] = "none"
    output, saved, table = _train_and_evaluate(user, tmp_path, options, "PivotNet_bs1_2p_acc")

    state = torch.load(saved, weights_only=True)
    assert (state["epoch"], state["global_step"]) == (0, 2)
    plain = torch.optim.AdamW([torch.zeros(1)])  # the optimiser's state is in its form, a group without parameters last
    assert set(next(iter(state["optimizer_state"]["state"].values()))) == {"step", "exp_avg", "exp_avg_sq"}
    assert state["optimizer_state"]["param_groups"][-1]["params"] == [] and plain.defaults["weight_decay"] == 0.01

    data = user.tree / "data" / "nuscenes"
    evaluate = f"python3 -m pivotnet evaluate --ckpt '{saved}' --preset effb0 --data-root '{data}' --format upstream"
    user.types(f"{evaluate} --device cpu --results '{tmp_path}/own'", user.root)
    words = f"'{data / FOLDER}' '{tmp_path}/own' '{data / FOLDER}/splits/val.txt'"
    assert table in user.types(f"python3 ../eval.py {words}", tmp_path / "clean")
    _resume(user, output, saved)


@pytest.mark.full
def test_bemapnet_is_trained_on_curves_evaluated_and_resumed(user, tmp_path):
    shrink_bemapnet(user.tree)
    user.environment["PIVOTNET_BACKBONE_WEIGHTS"] = "none"
    options = ("--network", "bemapnet", "--preset", "effb0", "--cards", 2)
    status, _, err = user.scripts.run(PERFORMANCE, *options, "--steps", 2)
    assert status == 1 and "no bezier curves" in err
    command = re.search(r"python3 \S+convert.py .* --bezier --overwrite", err)
    assert command
    user.types(command[0], user.root)
    cut_splits(user.tree / "data" / "nuscenes")
    status, out, err = user.scripts.run(PERFORMANCE, *options, "--steps", 2, "--output", tmp_path / "performance")
    assert status == 0, out + err
    assert final_result(out)["CaseName"] == "BeMapNet_bs1_2p_performance" and out.count(TITLE) == 1
    assert len(losses(tmp_path / "performance")) == 2
    output, saved, _ = _train_and_evaluate(user, tmp_path, options, "BeMapNet_bs1_2p_acc")
    _resume(user, output, saved)
