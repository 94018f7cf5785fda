"""Check pivotnet.patch: how much it quotes, its header, its imports, and that git applies and reverts it.

Without upstream the patch is applied to a stand-in that is rebuilt from its hunks. With a checkout at the pinned commit
it is applied to a copy of that too, the way users are told to.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

QUOTED_LIMIT = 200  # context and removed lines: what the patch repeats of upstream
PACKAGE = "pivotnet.upstream"
HUNK = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@")
NO_NEWLINE = b"\\ No newline at end of file"


class PatchError(Exception):
    """The patch does not parse, breaks a rule, or cannot be checked; one line an argument."""


@dataclass
class Hunk:
    """Lines as (sign, content with its ending)."""

    path: str
    start: int  # first line in the old file, from 1
    lines: list[tuple[str, bytes]] = field(default_factory=list)

    def of(self, *signs: str) -> list[bytes]:
        """Removed ("-"), added ("+") and context (" ") lines, in order."""
        return [content for sign, content in self.lines if sign in signs]


@dataclass
class Patch:
    """The text above the first file, and the hunks of each file."""

    header: str
    files: dict[str, list[Hunk]]

    @property
    def hunks(self) -> list[Hunk]:
        """Of all files, in order."""
        return [hunk for hunks in self.files.values() for hunk in hunks]

    def counts(self) -> dict[str, int]:
        """What the README tells of the patch."""
        return {
            "files": len(self.files),
            "hunks": len(self.hunks),
            "added": sum(len(hunk.of("+")) for hunk in self.hunks),
            "quoted": sum(len(hunk.of(" ", "-")) for hunk in self.hunks),
        }


def parse(data: bytes) -> Patch:
    """Parse a diff that git has written.

    Raises:
        PatchError: no diff, a count that is wrong, or a file that is added, deleted, renamed or binary.
    """
    header, *files = re.split(rb"^(?=diff --git )", data, flags=re.MULTILINE)
    if not files:
        raise PatchError("there is no 'diff --git' line")
    patch = Patch(header.decode(), {})
    for text in files:
        head, *hunks = re.split(rb"^(?=@@ )", text, flags=re.MULTILINE)
        first, *rest = head.decode(errors="replace").splitlines()
        path = first.split(" b/", 1)[1]
        for line in rest:
            if not line.startswith(("index ", "--- a/", "+++ b/")):
                raise PatchError(f"{path}: this line is not expected in a thin patch: {line}")
        if not hunks:
            raise PatchError(f"{path} has no hunk")
        patch.files[path] = [_parse_hunk(path, text) for text in hunks]
    return patch


def _parse_hunk(path: str, data: bytes) -> Hunk:
    head, *rows = data.splitlines(keepends=True)
    match = HUNK.match(head)
    if match is None:
        raise PatchError(f"{path}: this line is no hunk header: {head.decode(errors='replace').strip()}")
    start, old, new = (int(group or 1) for group in match.groups())
    hunk = Hunk(path, start)
    for row in rows:
        if row.startswith(NO_NEWLINE) and hunk.lines:
            hunk.lines[-1] = (hunk.lines[-1][0], hunk.lines[-1][1].rstrip(b"\n"))
        else:
            hunk.lines.append((row[:1].decode(errors="replace"), row[1:]))
    if (len(hunk.of(" ", "-")), len(hunk.of(" ", "+")), len(hunk.of(" ", "-", "+"))) != (old, new, len(hunk.lines)):
        raise PatchError(f"the hunk of {path} at line {start} does not have the lines that its header counts")
    return hunk


def check(path: Path, upstream: Path | None = None, commit: str | None = None) -> list[str]:
    """All faults of a patch.

    Args:
        path: the patch.
        upstream: a checkout, which is copied and not touched; skipped if None.
        commit: the pinned one, which the checkout must be at.

    Raises:
        PatchError: a package that the check itself needs is missing, or git fails.
    """
    try:
        patch = parse(path.read_bytes())
    except PatchError as error:
        return [str(error)]
    faults = [*_faults_of_form(patch), *_faults_of_header(patch), *_faults_of_imports(patch)]
    faults += faults_of_git(path, _stand_in(patch))
    if upstream is not None:
        found = commit_of(upstream)
        if found != commit:
            return [*faults, f"{upstream} is at commit {found or 'none'}, not at the pinned {commit}"]
        blobs = {name: _git(upstream, "show", f"{found}:{name}") for name in patch.files}
        faults += [f"upstream has no file {name}" for name, blob in blobs.items() if blob.returncode]
        tree = {name: blob.stdout for name, blob in blobs.items() if blob.returncode == 0}
        faults += [f"on upstream: {fault}" for fault in faults_of_git(path, tree)]
    return faults


def _faults_of_form(patch: Patch) -> Iterator[str]:
    """How much is quoted, and line endings; git itself finds white space at the end of lines."""
    quoted = patch.counts()["quoted"]
    if quoted > QUOTED_LIMIT:
        yield f"the patch quotes {quoted} lines of upstream, more than {QUOTED_LIMIT}"
    for hunk in patch.hunks:
        old, new = ({_ending(line) for line in hunk.of(*signs)} - {b""} for signs in (" -", "+"))
        if old and not new <= old:
            yield f"{hunk.path}:{hunk.start}: added lines do not end as the file's lines do"


def _ending(line: bytes) -> bytes:
    return line[len(line.rstrip(b"\r\n")) :]


def _faults_of_header(patch: Patch) -> Iterator[str]:
    """The header names every file, in order, in the first column, and every hunk under it, as "  1 2 why"."""
    explained: dict[str, list[int]] = {}
    numbers: list[int] = []
    for line in patch.header.splitlines():
        word = line.split(" ")[0]
        match = re.match(r"  ((?:\d+ )+)\S", line)
        if word in patch.files:
            numbers = explained[word] = []
        elif match:
            numbers += map(int, match[1].split())
    if list(explained) != list(patch.files):
        lost = [path for path in patch.files if path not in explained]
        yield f"the header does not name the files in their order{f' ({lost[0]} is missing)' if lost else ''}"
    for path, numbers in explained.items():
        if sorted(numbers) != list(range(1, len(patch.files[path]) + 1)):
            yield f"the header explains hunks {sorted(numbers)} of {path}, which has {len(patch.files[path])}"


def _faults_of_imports(patch: Patch) -> Iterator[str]:
    """Every name that the patch takes from the package exists, and takes the arguments that added lines give it."""
    for path, hunks in patch.files.items():
        names: dict[str, Any] = {}
        for line in (line.decode().strip() for hunk in hunks for line in hunk.of("+")):
            match = re.match(r"from (pivotnet[\w.]*) import (.+)", line)
            if match and not match[1].startswith(PACKAGE):
                yield f"{path} imports {match[1]}: the patch may import {PACKAGE} only"
            elif match:
                for alias in ast.parse(line).body[0].names:  # type: ignore[attr-defined]
                    try:
                        names[alias.asname or alias.name] = getattr(_module(match[1]), alias.name)
                    except (ImportError, AttributeError):
                        yield f"{path}: {match[1]} has no {alias.name}"
            for module in re.findall(r"-m (pivotnet[\w.]*)", line):
                try:
                    _module(module)
                except ImportError:
                    yield f"{path}: there is no module {module}"
        for hunk in hunks:
            for line in hunk.of("+"):
                yield from (f"{path}: {fault}" for fault in _faults_of_calls(line.decode().strip(), names))


def _module(name: str) -> Any:
    """Import; raise PatchError for a package that is not installed, which says nothing about the patch."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "pivotnet"):
            raise
        raise PatchError(
            f"the check needs the package {package}, which {sys.executable} lacks: pip install -r requirements.txt"
        ) from error


def _faults_of_calls(line: str, names: dict[str, Any]) -> Iterator[str]:
    """Calls of imported names in an added line that do not fit their signatures; open calls are not judged."""
    try:
        tree = ast.parse(line)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg}
            try:
                inspect.signature(names[node.func.id]).bind(*node.args, **keywords)
            except TypeError as error:
                yield f"{node.func.id} is not called rightly: {error}"


def _stand_in(patch: Patch) -> dict[str, bytes]:
    """Files that hold the old sides of the hunks at their places, and numbered lines between them."""
    tree = {}
    for path, hunks in patch.files.items():
        rows: list[bytes] = []
        for hunk in hunks:
            old = hunk.of(" ", "-")
            ending = next(filter(None, map(_ending, old)), b"\n")
            rows += [b"# line %d" % number + ending for number in range(len(rows) + 1, hunk.start)]
            rows += old
        tree[path] = b"".join(rows)
    return tree


def faults_of_git(patch_path: Path, tree: dict[str, bytes]) -> list[str]:
    """Apply to a repository of these files as users do, then revert."""
    patch = str(patch_path.resolve())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, content in tree.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        for words in (("init", "--quiet"), ("config", "core.autocrlf", "false"), ("add", "-A")):
            done = _git(folder, *words)
            if done.returncode:
                raise PatchError(f"git {words[0]} failed: {done.stderr.decode().strip()}")
        for words in (("apply", "--check", patch), ("apply", "--reject", "--whitespace=fix", patch)):
            done = _git(folder, *words)
            usual = r"(Checking patch|Applied patch .* cleanly)"
            said = [line for line in done.stderr.decode().splitlines() if not re.match(usual, line)]
            if done.returncode or said:
                return [f"git {' '.join(words[:-1])} says: {(said or [f'exit status {done.returncode}'])[0]}"]
        faults = []
        added = sum(int(line.split()[0]) for line in _git(folder, "diff", "--numstat").stdout.splitlines())
        expected = parse(patch_path.read_bytes()).counts()
        if added > expected["added"] + expected["files"]:
            faults.append("git apply has rewritten more lines than the patch has: line endings were changed")
        _git(folder, "apply", "-R", "--whitespace=nowarn", patch)
        if _git(folder, "diff", "--quiet").returncode:
            faults.append("git apply -R leaves a trace")
    return faults


def _git(folder: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(folder), *words], capture_output=True)


def commit_of(folder: Path) -> str:
    """The commit of a checkout; empty if the folder is none of its own."""
    if not (folder / ".git").exists():
        return ""
    return _git(folder, "rev-parse", "--verify", "--quiet", "HEAD").stdout.decode().strip()
