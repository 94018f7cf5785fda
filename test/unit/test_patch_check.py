"""The checker of pivotnet.patch: the patch of this repository passes, patches that break a rule do not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools" / "upstream"))

import patch_check  # noqa: E402
from patch_check import PatchError, parse  # noqa: E402

PATCH = ROOT / "pivotnet.patch"
HEADER = "Why.\n\na.py\n  1 a reason\n"


def diff(*lines: str, counts: str = "1,3 1,3", path: str = "a.py", header: str = HEADER) -> bytes:
    """A patch of one hunk in a file of the signed ``lines``."""
    old, new = counts.split()
    head = f"{header}diff --git a/{path} b/{path}\nindex 1111111..2222222 100644\n--- a/{path}\n+++ b/{path}\n"
    return (head + f"@@ -{old} +{new} @@\n" + "".join(line + "\n" for line in lines)).encode()


GOOD = (" import os", "-import torch", "+from pivotnet.upstream.substitutes import mmcv", " import sys")


def faults_of(tmp_path: Path, data: bytes) -> list[str]:
    """What the checker says of a patch with these bytes."""
    path = tmp_path / "x.patch"
    path.write_bytes(data)
    return patch_check.check(path)


def test_the_patch_of_this_repository_passes() -> None:
    assert patch_check.check(PATCH) == []


def test_the_patch_quotes_less_than_the_published_port() -> None:
    figures = patch_check.counts(parse(PATCH.read_bytes()))
    assert figures["quoted"] <= 200 < 278
    assert figures["added"] < 100


def test_a_good_patch_passes(tmp_path: Path) -> None:
    assert faults_of(tmp_path, diff(*GOOD)) == []


def test_a_package_that_the_check_lacks_is_no_fault_of_the_patch(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "pivotnet.upstream.substitutes", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(PatchError, match="the check needs the package torch, which .* lacks"):
        faults_of(tmp_path, diff(*GOOD))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (diff(*GOOD[:2], "+from pivotnet.upstream.substitutes import nothing", GOOD[3]), "has no nothing"),
        (diff(*GOOD[:2], "+from pivotnet.device import select_device", GOOD[3]), "may import pivotnet.upstream only"),
        (diff(*GOOD[:2], "+#import torch", GOOD[3]), "commented out"),
        (diff(*GOOD[:2], "+import numpy ", GOOD[3]), "white space at the end"),
        (diff(*GOOD[:2], "+x = y.cuda()", GOOD[3]), "names a vendor's device"),
        (diff(*GOOD[:2], "+import numpy\r", GOOD[3]), "do not end as"),
        (diff(" 1", " 2", "-3", "+4", " 5", counts="1,4 1,4"), "more than one line of context"),
        (diff(*GOOD, counts="1,4 1,4"), "does not have the lines"),
        (diff(*GOOD, header="Why.\n"), "does not name the files"),
        (diff(*GOOD, header=HEADER.replace("  1 a", "  1 2 a")), "explains hunks [1, 2]"),
        (b"nothing at all\n", "no 'diff --git' line"),
        (diff(*GOOD).replace(b"index 1", b"deleted file mode 100644\nindex 1"), "not expected in a thin patch"),
    ],
)
def test_a_broken_patch_fails(tmp_path: Path, data: bytes, words: str) -> None:
    faults = faults_of(tmp_path, data)
    assert any(words in fault for fault in faults), faults


def test_too_much_quoting_fails(tmp_path: Path) -> None:
    removed = [f"-{number}" for number in range(201)]
    faults = faults_of(tmp_path, diff(*removed, "+x", counts="1,201 1,1"))
    assert faults == ["the patch quotes 201 lines of upstream, more than 200"]


def test_wrong_arguments_fail(tmp_path: Path) -> None:
    lines = (
        " import os",
        "-a = 1",
        "+from pivotnet.upstream.samples import load_sample",
        "+a = load_sample(1, 2, 3)",
        " b = 2",
    )
    faults = faults_of(tmp_path, diff(*lines, counts="1,3 1,4"))
    assert any("load_sample is not called rightly" in fault for fault in faults), faults


def test_a_missing_module_of_a_command_fails(tmp_path: Path) -> None:
    header = HEADER.replace("a.py", "run.sh")
    data = diff(" a", "-b", "+python3 -m pivotnet.upstream.nowhere x", " c", path="run.sh", header=header)
    assert "run.sh: there is no module pivotnet.upstream.nowhere" in faults_of(tmp_path, data)


def test_line_endings_of_the_file_are_kept(tmp_path: Path) -> None:
    lines = (" a\r", "-b\r", "+c\r", " d\r")
    assert faults_of(tmp_path, diff(*lines)) == []


def test_a_hunk_that_does_not_fit_is_reported(tmp_path: Path) -> None:
    patch = tmp_path / "x.patch"
    patch.write_bytes(diff(*GOOD))
    tree = {"a.py": b"import os\nimport numpy\nimport sys\n"}
    assert patch_check.faults_of_git(patch, tree)[0].startswith("git apply --check says: ")


def test_parsing_keeps_endings_and_missing_newlines() -> None:
    data = diff("-a", "\\ No newline at end of file", "+b\r", counts="1 1")
    hunk = parse(data).files[0].hunks[0]
    assert (hunk.of("-"), hunk.of("+")) == ([b"a"], [b"b\r\n"])
    with pytest.raises(PatchError, match="no hunk"):
        parse(b"diff --git a/x b/x\nindex 1..2 100644\n--- a/x\n+++ b/x\n")
