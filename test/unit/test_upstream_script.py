"""tools/upstream.sh, on a made-up upstream of one file."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import ROOT

FILE = b"import os\r\nimport torch\r\nimport sys\r\n"


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    done = subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def place(tmp_path) -> Path:
    """A copy of the script with a pinned commit of a made-up upstream, and a second commit that is not the pinned."""
    upstream = tmp_path / "upstream"
    upstream.mkdir()
    git(upstream, "init", "--quiet")
    for name, content in (("a.py", FILE), ("b.py", b"later\n")):
        (upstream / name).write_bytes(content)
        git(upstream, "add", "-A")
        git(upstream, "commit", "--quiet", "-m", name)
    pinned = git(upstream, "rev-parse", "HEAD~1")
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "upstream.sh", tmp_path / "tools")
    shutil.copytree(ROOT / "tools" / "upstream", tmp_path / "tools" / "upstream")
    (tmp_path / "tools" / "upstream_commit").write_text(pinned + "\n")
    return tmp_path


def run(place: Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PIVOTNET", "GIT"))}
    environment = {**clean, "PYTHONPATH": str(ROOT), **variables}
    command = ["bash", str(place / "tools" / "upstream.sh"), *words]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, env=environment)


def fetched(place: Path, **variables: str) -> None:
    done = run(place, "fetch", "--from", str(place / "upstream"), **variables)
    assert done.returncode == 0, done.stderr


def test_round_trip(place):
    fetched(place)
    tree, changed = place / "PivotNet", FILE.replace(b"import torch", b"import json")
    file = tree / "a.py"
    assert file.read_bytes() == FILE and not (tree / "b.py").exists()
    file.write_bytes(changed)
    (place / "pivotnet.patch").write_text("The header.\n\n")
    assert run(place, "pack").returncode == 0
    patch = (place / "pivotnet.patch").read_bytes()
    assert patch.startswith(b"The header.\n\ndiff --git a/a.py b/a.py\n") and b"+import json\r\n" in patch
    assert run(place, "revert").returncode == 0
    assert file.read_bytes() == FILE and git(tree, "status", "--porcelain") == ""
    assert run(place, "apply").returncode == 0 and file.read_bytes() == changed
    assert "already" in run(place, "apply").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("apply",), "make it with: tools/upstream.sh fetch"),
        (("fetch", "--from", "nowhere"), "tools/upstream.sh fetch --from DIR"),
        (("fly",), "error: "),
        (("fetch", "--form", "x"), "error: "),
    ],
)
def test_what_cannot_be_done_is_said(place, words, message):
    done = run(place, *words)
    assert done.returncode == 2 and message in done.stderr
    assert not (place / "PivotNet").exists() and not list(place.glob(".upstream.*"))


def test_another_commit_is_refused(place):
    git(place, "clone", "--quiet", str(place / "upstream"), str(place / "PivotNet"))
    for command in ("fetch", "apply", "pack"):
        done = run(place, command)
        assert done.returncode == 2 and "not at the pinned" in done.stderr
    (place / "tools" / "upstream_commit").write_text("0" * 40 + "\n")
    done = run(place, "fetch", "--from", str(place / "upstream"), PIVOTNET_DIR="elsewhere")
    assert done.returncode == 2 and "does not have the pinned commit" in done.stderr


def test_nothing_to_pack_leaves_the_patch(place):
    fetched(place, PIVOTNET_DIR="else/where")
    (place / "pivotnet.patch").write_text("The header.\n")
    done = run(place, "pack", PIVOTNET_DIR="else/where")
    assert done.returncode == 2 and (place / "pivotnet.patch").read_text() == "The header.\n"
    assert (place / "else" / "where" / "a.py").is_file() and not (place / "PivotNet").exists()


def test_check_names_faults_and_counts(place):
    first, second, third = FILE.splitlines(keepends=True)
    diff = b"diff --git a/a.py b/a.py\nindex 1..2 100644\n--- a/a.py\n+++ b/a.py\n@@ -1,3 +1,3 @@\n"
    body = b" " + first + b"-" + second + b"+import json\r\n " + third
    (place / "pivotnet.patch").write_bytes(b"Why.\n\na.py\n  1 a reason\n" + diff + body)
    done = run(place, "check", PYTHON=sys.executable, PIVOTNET_UPSTREAM=str(place / "upstream"))
    assert done.returncode == 1 and "fault: " in done.stderr and "not at the pinned" in done.stderr
    fetched(place)
    good = run(place, "check", PYTHON=sys.executable)
    assert good.returncode == 0 and good.stdout == "1 files, 1 hunks, 1 added, 3 quoted\n", good.stderr


def test_the_commit_stands_in_one_file():
    commit = (ROOT / "tools" / "upstream_commit").read_text().strip()
    command = ["git", "-C", str(ROOT), "grep", "-lF", commit, "--", "*.py", "*.sh", "*.toml", "tools"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "tools/upstream_commit\n"
