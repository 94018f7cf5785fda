"""The checker of pivotnet.patch: the patch of this repository passes, patches that break a rule do not."""

import sys
from pathlib import Path

import pytest
from support.commands import ROOT
from upstream import patch_check
from upstream.patch_check import parse

from pivotnet.errors import PivotNetError

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
    """What the checker says of a patch with these bytes."""
    path = tmp_path / "x.patch"
    path.write_bytes(data)
    return patch_check.check(path)


def test_the_patch_of_this_repository_passes_and_quotes_less_than_the_published_port():
    patch = ROOT / "pivotnet.patch"
    assert patch_check.check(patch) == []
    counts = parse(patch.read_bytes()).counts()
    assert counts["quoted"] <= 200 < 278 and counts["added"] < 100


def test_a_package_that_the_check_lacks_is_no_fault_of_the_patch(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "pivotnet.upstream.substitutes", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(PivotNetError, match="the check needs the package torch, which .* lacks"):
        faults_of(tmp_path, diff(*GOOD))


@pytest.mark.parametrize("lines", [GOOD, (" a\r", "-b\r", "+c\r", " d\r")])
def test_a_good_patch_passes_whatever_its_line_endings(tmp_path, lines):
    assert faults_of(tmp_path, diff(*lines)) == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (with_added("from pivotnet.upstream.substitutes import nothing"), "has no nothing"),
        (with_added("from pivotnet.device import select_device"), "may import pivotnet.upstream only"),
        (with_added("import numpy "), "trailing whitespace"),
        (with_added("import numpy\r"), "do not end as"),
        (diff(*MODULE), "there is no module pivotnet.upstream.nowhere"),
        (diff(*CALL, counts="1,3 1,4"), "load_sample is not called rightly"),
        (diff(*map(str, range(-201, 0)), "+x", counts="1,201 1,1"), "the patch quotes 201 lines"),
        (diff(*GOOD, counts="1,4 1,4"), "corrupt patch"),
        (diff(*GOOD, header="Why.\n"), "does not name the files"),
        (diff(*GOOD, header=HEADER.replace("  1 a", "  1 2 a")), "explains hunks [1, 2]"),
        (b"nothing at all\n", "no 'diff --git' line"),
        (diff(*GOOD).replace(b"index 1", b"deleted file mode 100644\nindex 1"), "not expected in a thin patch"),
        (diff(*GOOD).partition(b"@@")[0], "a.py, which has 0"),
    ],
)
def test_a_broken_patch_fails(tmp_path, data, words):
    faults = faults_of(tmp_path, data)
    assert any(words in fault for fault in faults), faults


def test_a_hunk_that_does_not_fit_is_reported(tmp_path):
    patch = tmp_path / "x.patch"
    patch.write_bytes(diff(*GOOD))
    tree = {"a.py": b"import os\nimport numpy\nimport sys\n"}
    assert patch_check.faults_of_git(patch, tree)[0].startswith("git apply --check says: ")


def test_parsing_keeps_endings_and_missing_newlines():
    (hunk,) = parse(diff("-a", "\\ No newline at end of file", "+b\r", counts="1 1")).files["a.py"]
    assert (hunk.of("-"), hunk.of("+")) == ([b"a"], [b"b\r\n"])
