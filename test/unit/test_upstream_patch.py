"""The patch of this repository passes its checker, patches that break a rule do not; tools/upstream.sh, on a made-up
upstream of one file."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import ROOT
from support.upstream_tree import git
from upstream import patch_check
from upstream.patch_check import parse

HEADER = "Why.\n\na.py\n  1 a reason\n"
GOOD = (" import os", "-import torch", "+from pivotnet.upstream.substitutes import mmcv", " import sys")
CALL = (" import os", "-a = 1", "+from pivotnet.upstream.samples import load_sample", "+a = load_sample(1, 2, 3)", " b")
MODULE = (" a", "-b", "+python3 -m pivotnet.upstream.nowhere x", " c")


def diff(*lines: str, counts: str = "1,3 1,3", header: str = HEADER) -> bytes:
    """A patch of one hunk in a file of the signed ``lines``."""
    old, new = counts.split()
    head = f"{header}diff --git a/a.py b/a.py\nindex 1111111..2222222 100644\n--- a/a.py\n+++ b/a.py\n"
    return (head + f"@@ -{old} +{new} @@\n" + "".join(line + "\n" for line in lines)).encode()


def with_added(line: str) -> bytes:
    return diff(*GOOD[:2], f"+{line}", GOOD[3])


def faults_of(tmp_path: Path, data: bytes) -> list[str]:
    path = tmp_path / "x.patch"
    path.write_bytes(data)
    return patch_check.check(path)


def test_the_patch_of_this_repository_passes_and_quotes_less_than_the_published_port():
    patch = ROOT / "pivotnet.patch"
    assert patch_check.check(patch) == []
    assert b"\r\n" in patch.read_bytes(), "line endings of upstream's files are lost"
    counts = parse(patch.read_bytes()).counts()
    assert counts["quoted"] <= 200 < 278 and counts["added"] < 100


@pytest.mark.parametrize("lines", [GOOD, (" a\r", "-b\r", "+c\r", " d\r")])
def test_a_good_patch_passes_whatever_its_line_endings(tmp_path, lines):
    assert faults_of(tmp_path, diff(*lines)) == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (with_added("from pivotnet.upstream.substitutes import nothing"), "has no nothing"),
        (with_added("from pivotnet.device import select_device"), "may import pivotnet.upstream only"),
        (diff(*MODULE), "there is no module pivotnet.upstream.nowhere"),
        (diff(*CALL, counts="1,3 1,4"), "load_sample is not called correctly"),
        (diff(*map(str, range(-201, 0)), "+x", counts="1,201 1,1"), "the patch quotes 201 lines"),
        (diff(*GOOD, header="Why.\n"), "does not name the files"),
        (b"nothing at all\n", "no 'diff --git' line"),
        (diff(*GOOD).replace(b"index 1", b"deleted file mode 100644\nindex 1"), "not expected in a thin patch"),
    ],
)
def test_a_broken_patch_fails(tmp_path, data, words):
    faults = faults_of(tmp_path, data)
    assert any(words in fault for fault in faults), faults


FILE = b"import os\r\nimport torch\r\nimport sys\r\n"


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
    (tmp_path / "tools" / "upstream_commit").write_text(pinned)
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
    lines = (" import os\r", "-import torch\r", "+import json\r", " import sys\r")
    (place / "pivotnet.patch").write_bytes(diff(*lines))
    done = run(place, "check", PYTHON=sys.executable, PIVOTNET_UPSTREAM=str(place / "upstream"))
    assert done.returncode == 1 and "fault: " in done.stderr and "not at the pinned" in done.stderr
    fetched(place)
    good = run(place, "check", PYTHON=sys.executable)
    assert good.returncode == 0 and good.stdout == "1 files, 1 hunks, 1 added, 3 quoted\n", good.stderr
    (place / "pivotnet.patch").write_bytes(diff(lines[0], "-import numpy\r", *lines[2:]))
    other = run(place, "check", PYTHON=sys.executable)
    assert other.returncode == 1 and "fault: on upstream: git apply --check says: " in other.stderr


def test_the_commit_stands_in_one_file():
    commit = (ROOT / "tools" / "upstream_commit").read_text().strip()
    command = ["git", "-C", str(ROOT), "grep", "-lF", commit, "--", "*.py", "*.sh", "*.toml", "tools"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "tools/upstream_commit\n"
