"""Check pivotnet.patch: how much it quotes, its header, its imports, that git can read it, and, with a checkout of the
pinned commit, that git applies it to a clone of that, the way users are told to, and reverts it."""

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
Hunk = list[tuple[str, bytes]]  # lines as (sign, content with its ending): "-" removed, "+" added, " " context


@dataclass
class Patch:
    """The text above the first file, the lines above the hunks of each file, and the hunks."""

    header: str
    heads: dict[str, list[str]]
    files: dict[str, list[Hunk]]

    def counts(self) -> dict[str, int]:
        """What the README says about the patch."""
        hunks = [hunk for file in self.files.values() for hunk in file]
        added, quoted = (sum(len(lines_of(hunk, signs)) for hunk in hunks) for signs in ("+", " -"))
        return {"files": len(self.files), "hunks": len(hunks), "added": added, "quoted": quoted}


def lines_of(hunk: Hunk, signs: str) -> list[bytes]:
    """Lines with one of the signs, in order."""
    return [content for sign, content in hunk if sign in signs]


def parse(data: bytes) -> Patch:
    """Parse a diff that git has written; git itself finds hunks that are not as long as they say. Raises PivotNetError:
    no diff."""
    header, *files = re.split(rb"^diff --git ", data, flags=re.MULTILINE)
    if not files:
        raise PivotNetError("there is no 'diff --git' line")
    patch = Patch(header.decode(), {}, {})
    for text in files:
        head, *hunks = re.split(rb"^@@ .*\n", text, flags=re.MULTILINE)
        first, *rest = head.decode(errors="replace").splitlines()
        path = first.split(" b/", 1)[1]
        patch.heads[path] = rest
        # a line that begins with a backslash says that the one above has no ending
        rows = [re.findall(rb"^([-+ ])(.*\n)(\\.*\n)?", hunk, flags=re.MULTILINE) for hunk in hunks]
        patch.files[path] = [[(sign.decode(), line[:-1] if cut else line) for sign, line, cut in row] for row in rows]
    return patch


def check(path: Path, upstream: Path | None = None, commit: str = "") -> list[str]:
    """All faults of a patch, also on a clone of ``upstream``, a checkout, if it is at ``commit``.
    Raises PivotNetError: a package that the check itself needs is missing."""
    try:
        patch = parse(path.read_bytes())
    except PivotNetError as error:
        return [str(error)]
    faults = [*_faults_of_form(patch), *_faults_of_header(patch), *_faults_of_imports(patch)]
    file = str(path.resolve())
    # reads the hunks, and finds white space at the end of lines
    faults += _faults_of_git(path.parent, ("apply", "--numstat", "--whitespace=warn", file))
    if upstream is not None and (found := commit_of(upstream)) != commit:
        faults.append(f"{upstream} is at commit {found or 'none'}, not at the pinned {commit}")
    elif upstream is not None:
        with tempfile.TemporaryDirectory() as folder:
            steps = (
                ("clone", "--quiet", "--shared", "--no-checkout", str(upstream.resolve()), "."),
                ("config", "core.autocrlf", "false"),
                ("checkout", "--quiet", commit, "--", *patch.files),
                ("apply", "--check", file),
                ("apply", "--reject", "--whitespace=fix", file),  # as users do
                ("apply", "--reverse", "--whitespace=nowarn", file),
                ("diff", "--exit-code", "--name-only"),
            )
            faults += [f"on upstream: {fault}" for fault in _faults_of_git(Path(folder), *steps)]
    return faults


def _faults_of_form(patch: Patch) -> Iterator[str]:
    """Files that are not edited only, how much is quoted, line endings."""
    for path, head in patch.heads.items():
        odd = [line for line in head if not line.startswith(("index ", "--- a/", "+++ b/"))]
        yield from (f"{path}: this line is not expected in a thin patch: {line}" for line in odd)
    quoted = patch.counts()["quoted"]
    if quoted > QUOTED_LIMIT:
        yield f"the patch quotes {quoted} lines of upstream, more than {QUOTED_LIMIT}"
    for path, hunks in patch.files.items():
        for number, hunk in enumerate(hunks, 1):
            endings = ({line[len(line.rstrip(b"\r\n")) :] for line in lines_of(hunk, signs)} for signs in (" -", "+"))
            old, new = (found - {b""} for found in endings)
            if old and not new <= old:
                yield f"{path}, hunk {number}: added lines do not end as the file's lines do"


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
        for line in (line.decode().strip() for hunk in hunks for line in lines_of(hunk, "+")):
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
                        yield f"{path}: {node.func.id} is not called correctly: {error}"


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


def _faults_of_git(folder: Path, *steps: tuple[str, ...]) -> list[str]:
    """What git says of the first of these commands that fails or complains."""
    for words in steps:
        done = _git(folder, *words)
        usual = r"(Checking patch|Applied patch .* cleanly)"
        said = [line for line in done.stderr.decode().splitlines() if not re.match(usual, line)]
        if done.returncode or said:
            return [f"git {words[0]} {words[1]} says: {(said or [f'exit status {done.returncode}'])[0]}"]
    return []


def _git(folder: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(folder), *words], capture_output=True)


def commit_of(folder: Path) -> str:
    """The commit of a checkout; empty if the folder is none of its own."""
    if not (folder / ".git").exists():
        return ""
    return _git(folder, "rev-parse", "--verify", "--quiet", "HEAD").stdout.decode().strip()
