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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pivotnet.errors import PivotNetError

QUOTED_LIMIT = 200  # context and removed lines: what the patch repeats of upstream
PACKAGE = "pivotnet.upstream"


@dataclass
class Hunk:
    """Lines as (sign, content with its ending)."""

    start: int  # first line in the old file, from 1
    lines: list[tuple[str, bytes]]

    def of(self, *signs: str) -> list[bytes]:
        """Removed ("-"), added ("+") and context (" ") lines, in order."""
        return [content for sign, content in self.lines if sign in signs]


@dataclass
class Patch:
    """The text above the first file, the lines above the hunks of each file, and the hunks."""

    header: str
    heads: dict[str, list[str]]
    files: dict[str, list[Hunk]]

    def count(self, *signs: str) -> int:
        """Number of such lines in all hunks."""
        return sum(len(hunk.of(*signs)) for hunks in self.files.values() for hunk in hunks)

    def counts(self) -> dict[str, int]:
        """What the README tells of the patch."""
        hunks = sum(map(len, self.files.values()))
        return {"files": len(self.files), "hunks": hunks, "added": self.count("+"), "quoted": self.count(" ", "-")}


def parse(data: bytes) -> Patch:
    """Parse a diff that git has written; git itself finds hunks that are not as long as they say.

    Raises:
        PivotNetError: no diff.
    """
    header, *files = re.split(rb"^diff --git ", data, flags=re.MULTILINE)
    if not files:
        raise PivotNetError("there is no 'diff --git' line")
    patch = Patch(header.decode(), {}, {})
    for text in files:
        head, *hunks = re.split(rb"^@@ -(\d+)[^\n]*\n", text, flags=re.MULTILINE)
        first, *rest = head.decode(errors="replace").splitlines()
        path = first.split(" b/", 1)[1]
        patch.heads[path] = rest
        patch.files[path] = [Hunk(int(start), _signed(body)) for start, body in zip(hunks[::2], hunks[1::2])]
    return patch


def _signed(body: bytes) -> list[tuple[str, bytes]]:
    lines: list[tuple[str, bytes]] = []
    for row in body.splitlines(keepends=True):
        if row.startswith(b"\\ No newline") and lines:
            lines[-1] = (lines[-1][0], lines[-1][1].rstrip(b"\n"))
        else:
            lines.append((row[:1].decode(errors="replace"), row[1:]))
    return lines


def check(path: Path, upstream: Path | None = None, commit: str | None = None) -> list[str]:
    """All faults of a patch.

    Args:
        path: the patch.
        upstream: a checkout, which is copied and not touched; skipped if None.
        commit: the pinned one, which the checkout must be at.

    Raises:
        PivotNetError: a package that the check itself needs is missing, or git fails.
    """
    try:
        patch = parse(path.read_bytes())
    except PivotNetError as error:
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
    """Files that are not edited only, how much is quoted, line endings; git finds white space at the end of lines."""
    for path, head in patch.heads.items():
        odd = [line for line in head if not line.startswith(("index ", "--- a/", "+++ b/"))]
        yield from (f"{path}: this line is not expected in a thin patch: {line}" for line in odd)
    quoted = patch.count(" ", "-")
    if quoted > QUOTED_LIMIT:
        yield f"the patch quotes {quoted} lines of upstream, more than {QUOTED_LIMIT}"
    for path, hunks in patch.files.items():
        for hunk in hunks:
            old, new = ({_ending(line) for line in hunk.of(*signs)} - {b""} for signs in (" -", "+"))
            if old and not new <= old:
                yield f"{path}:{hunk.start}: added lines do not end as the file's lines do"


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
            for module in re.findall(r"-m (pivotnet[\w.]*)", line):
                if _module(module) is None:
                    yield f"{path}: there is no module {module}"
            try:
                nodes = list(ast.walk(ast.parse(line)))
            except SyntaxError:  # shell, or an open call: not judged
                continue
            for node in nodes:
                if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pivotnet"):
                    if not node.module.startswith(PACKAGE):
                        yield f"{path} imports {node.module}: the patch may import {PACKAGE} only"
                        continue
                    for alias in node.names:
                        found = names[alias.asname or alias.name] = getattr(_module(node.module), alias.name, None)
                        if found is None:
                            yield f"{path}: {node.module} has no {alias.name}"
                elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and names.get(node.func.id):
                    keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg}
                    try:
                        inspect.signature(names[node.func.id]).bind(*node.args, **keywords)
                    except TypeError as error:
                        yield f"{path}: {node.func.id} is not called rightly: {error}"


def _module(name: str) -> Any:
    """Import; None if there is no such module. A package that is not installed is no fault of the patch: an error."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "pivotnet"):
            return None
        raise PivotNetError(
            f"the check needs the package {package}, which {sys.executable} lacks: pip install -r requirements.txt"
        ) from error


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
                raise PivotNetError(f"git {words[0]} failed: {done.stderr.decode().strip()}")
        for words in (("apply", "--check", patch), ("apply", "--reject", "--whitespace=fix", patch)):
            done = _git(folder, *words)
            usual = r"(Checking patch|Applied patch .* cleanly)"
            said = [line for line in done.stderr.decode().splitlines() if not re.match(usual, line)]
            if done.returncode or said:
                return [f"git {' '.join(words[:-1])} says: {(said or [f'exit status {done.returncode}'])[0]}"]
        _git(folder, "apply", "-R", "--whitespace=nowarn", patch)
        return ["git apply -R leaves a trace"] if _git(folder, "diff", "--quiet").returncode else []


def _git(folder: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(folder), *words], capture_output=True)


def commit_of(folder: Path) -> str:
    """The commit of a checkout; empty if the folder is none of its own."""
    if not (folder / ".git").exists():
        return ""
    return _git(folder, "rev-parse", "--verify", "--quiet", "HEAD").stdout.decode().strip()
