"""Check pivotnet.patch: rules of thinness, imports, and that git applies and reverts it.

Without upstream the patch is applied to a stand-in that is rebuilt from its hunks. With a checkout at the pinned commit
it is applied to a copy of that too, as README.md says.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

QUOTED_LIMIT = 200  # context and removed lines: what the patch repeats of upstream
PACKAGE = "pivotnet.upstream"
HEADER_HUNKS = re.compile(r"  ((?:\d+ )+)\S")
VENDOR = re.compile(rb"\b(torch_npu|mx_driving|\.cuda\(|\.npu\(|transfer_to_npu)")
HUNK = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
NO_NEWLINE = b"\\ No newline at end of file"


class PatchError(Exception):
    """The patch does not parse, breaks a rule, or cannot be checked; one line an argument."""


@dataclass
class Hunk:
    """Lines as (sign, content with its ending)."""

    start: int  # first line in the old file, from 1
    lines: list[tuple[str, bytes]] = field(default_factory=list)

    def of(self, *signs: str) -> list[bytes]:
        """Removed ("-"), added ("+") and context (" ") lines, in order."""
        return [content for sign, content in self.lines if sign in signs]


@dataclass
class FilePatch:
    """The hunks of one file."""

    path: str
    hunks: list[Hunk]


@dataclass
class Patch:
    """Header lines above the first file, and the files."""

    header: list[str]
    files: list[FilePatch]

    def of(self, *signs: str) -> list[tuple[str, bytes]]:
        """All lines of these signs, with their file."""
        return [(file.path, line) for file in self.files for hunk in file.hunks for line in hunk.of(*signs)]


def parse(data: bytes) -> Patch:
    """Parse a diff that git has written.

    Raises:
        PatchError: no diff, a count that is wrong, or a file that is added, deleted, renamed or binary.
    """
    header, *files = re.split(rb"^(?=diff --git )", data, flags=re.MULTILINE)
    if not files:
        raise PatchError("there is no 'diff --git' line")
    return Patch(header.decode().splitlines(), [_parse_file(text) for text in files])


def _parse_file(data: bytes) -> FilePatch:
    head, *hunks = re.split(rb"^(?=@@ )", data, flags=re.MULTILINE)
    first, *rest = head.decode(errors="replace").splitlines()
    path = first.split(" b/", 1)[1]
    for line in rest:
        if not line.startswith(("index ", "--- a/", "+++ b/")):
            raise PatchError(f"{path}: this line is not expected in a thin patch: {line}")
    if not hunks:
        raise PatchError(f"{path} has no hunk")
    return FilePatch(path, [_parse_hunk(path, text) for text in hunks])


def _parse_hunk(path: str, data: bytes) -> Hunk:
    head, *rows = data.splitlines(keepends=True)
    match = HUNK.match(head)
    if match is None:
        raise PatchError(f"{path}: this line is no hunk header: {head.decode(errors='replace').strip()}")
    start, old, _, new = (1 if group is None else int(group) for group in match.groups())
    hunk = Hunk(start)
    for row in rows:
        if row.startswith(NO_NEWLINE) and hunk.lines:
            hunk.lines[-1] = (hunk.lines[-1][0], hunk.lines[-1][1].rstrip(b"\n"))
        elif row[:1] in (b" ", b"-", b"+"):
            hunk.lines.append((row[:1].decode(), row[1:]))
        else:
            raise PatchError(f"{path}: this line belongs to no hunk: {row.decode(errors='replace').strip()}")
    if len(hunk.of(" ", "-")) != old or len(hunk.of(" ", "+")) != new:
        raise PatchError(f"the hunk of {path} at line {start} does not have the lines that its header counts")
    return hunk


def counts(patch: Patch) -> dict[str, int]:
    """What README.md says of the patch."""
    return {
        "files": len(patch.files),
        "hunks": sum(len(file.hunks) for file in patch.files),
        "added": len(patch.of("+")),
        "quoted": len(patch.of(" ", "-")),
    }


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
    faults = [*faults_of_form(patch), *faults_of_header(patch), *faults_of_imports(patch)]
    faults += faults_of_git(path, stand_in(patch))
    if upstream is not None:
        found = commit_of(upstream)
        if commit is not None and found != commit:
            return [*faults, f"{upstream} is at commit {found or 'none'}, not at the pinned {commit}"]
        blobs = {file.path: _git(upstream, "show", f"{found}:{file.path}") for file in patch.files}
        faults += [f"upstream has no file {name}" for name, blob in blobs.items() if blob.returncode]
        tree = {name: blob.stdout for name, blob in blobs.items() if blob.returncode == 0}
        faults += [f"on upstream: {fault}" for fault in faults_of_git(path, tree)]
    return faults


def faults_of_form(patch: Patch) -> Iterator[str]:
    """Thinness, line endings, white space, commented-out code and vendor names."""
    quoted = counts(patch)["quoted"]
    if quoted > QUOTED_LIMIT:
        yield f"the patch quotes {quoted} lines of upstream, more than {QUOTED_LIMIT}"
    for path, hunk in [(file.path, hunk) for file in patch.files for hunk in file.hunks]:
        where = f"{path}:{hunk.start}"
        old = {_ending(line) for line in hunk.of(" ", "-")} - {b""}
        new = {_ending(line) for line in hunk.of("+")} - {b""}
        if old and not new <= old:
            yield f"{where}: added lines do not end as the file's lines do"
        removed = {line.strip().lstrip(b" #") for line in hunk.of("-")}
        for line in hunk.of("+"):
            text = line.rstrip(b"\r\n")
            if text != text.rstrip():
                yield f"{where}: white space at the end of an added line"
            if text.lstrip().startswith(b"#") and text.lstrip(b" #") in removed:
                yield f"{where}: removed code is commented out: {text.strip().decode()}"
            if VENDOR.search(text):
                yield f"{where}: an added line names a vendor's device: {text.strip().decode()}"
        signs = [sign for sign, _ in hunk.lines]
        if [" ", " "] in (signs[:2], signs[-2:]):
            yield f"{where}: more than one line of context"


def _ending(line: bytes) -> bytes:
    return line[len(line.rstrip(b"\r\n")) :]


def faults_of_header(patch: Patch) -> Iterator[str]:
    """The header names every file, in order, and every hunk under it."""
    named: dict[str, Counter[int]] = {}
    current = None
    paths = [file.path for file in patch.files]
    for line in patch.header:
        word = line.split(" ")[0]
        match = HEADER_HUNKS.match(line)
        if word in paths:
            current = word
            named[current] = Counter()
        elif match and current:
            named[current].update(map(int, match[1].split()))
        elif not line.startswith("    "):
            current = None
    if list(named) != paths:
        lost = [path for path in paths if path not in named]
        yield f"the header does not name the files in their order{f' ({lost[0]} is missing)' if lost else ''}"
    for file in patch.files:
        numbers = sorted(named.get(file.path, Counter()).elements())
        if file.path in named and numbers != list(range(1, len(file.hunks) + 1)):
            yield f"the header explains hunks {numbers} of {file.path}, which has {len(file.hunks)}"


def faults_of_imports(patch: Patch) -> Iterator[str]:
    """Every name that the patch takes from the package exists, and takes the arguments that added lines give it."""
    for file in (file for file in patch.files if file.path.endswith(".py")):
        names: dict[str, Any] = {}
        added = [line.decode().strip() for hunk in file.hunks for line in hunk.of("+")]
        for line in added:
            match = re.match(r"from (pivotnet[\w.]*) import (.+)", line)
            if match is None:
                continue
            if not match[1].startswith(PACKAGE):
                yield f"{file.path} imports {match[1]}: the patch may import {PACKAGE} only"
                continue
            for alias in ast.parse(line).body[0].names:  # type: ignore[attr-defined]
                try:
                    names[alias.asname or alias.name] = getattr(_module(match[1]), alias.name)
                except (ImportError, AttributeError):
                    yield f"{file.path}: {match[1]} has no {alias.name}"
        for line in added:
            yield from (f"{file.path}: {fault}" for fault in _faults_of_calls(line, names))
    for path, line in patch.of("+"):
        for module in re.findall(r"-m (pivotnet[\w.]*)", line.decode()):
            try:
                _module(module)
            except ImportError:
                yield f"{path}: there is no module {module}"


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


def stand_in(patch: Patch) -> dict[str, bytes]:
    """Files that hold the old lines of the hunks where the hunks are, and numbered lines between them."""
    tree = {}
    for file in patch.files:
        rows: list[bytes] = []
        for hunk in file.hunks:
            old = hunk.of(" ", "-")
            ending = next(filter(None, map(_ending, old)), b"\n")
            rows += [b"# line %d" % number + ending for number in range(len(rows) + 1, hunk.start)]
            rows += old
        tree[file.path] = b"".join(rows)
    return tree


def faults_of_git(patch_path: Path, tree: dict[str, bytes]) -> list[str]:
    """Apply to a repository of these files as users do, then revert."""
    patch = str(patch_path.resolve())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, content in tree.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        identity = ("-c", "user.name=check", "-c", "user.email=check@localhost")
        for words in (
            ("init", "--quiet"),
            ("config", "core.autocrlf", "false"),
            ("add", "-A"),
            (*identity, "commit", "--quiet", "-m", "stand-in"),
        ):
            done = _git(folder, *words)
            if done.returncode:
                raise PatchError(f"git {words[0]} failed: {done.stderr.decode().strip()}")
        for words in (("apply", "--check", patch), ("apply", "--reject", "--whitespace=fix", patch)):
            done = _git(folder, *words)
            usual = r"(Checking patch|Applied patch .* cleanly)"
            said = [line for line in done.stderr.decode().splitlines() if not re.match(usual, line)]
            if done.returncode or said:
                return [f"git {' '.join(words[:-1])} says: {(said or [f'exit status {done.returncode}'])[0]}"]
        faults = [f"git apply left {path}" for path in folder.rglob("*.rej")]
        added = sum(int(line.split()[0]) for line in _git(folder, "diff", "--numstat").stdout.splitlines())
        expected = counts(parse(patch_path.read_bytes()))
        if added > expected["added"] + expected["files"]:
            faults.append("git apply has rewritten more lines than the patch has: line endings were changed")
        _git(folder, "apply", "-R", "--whitespace=nowarn", patch)
        if _git(folder, "status", "--porcelain").stdout or _git(folder, "diff", "--quiet").returncode:
            faults.append("git apply -R leaves a trace")
    return faults


def _git(folder: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(folder), *words], capture_output=True)


def commit_of(folder: Path) -> str:
    """The commit of a checkout; empty if the folder is none of its own."""
    if not (folder / ".git").exists():
        return ""
    return _git(folder, "rev-parse", "--verify", "--quiet", "HEAD").stdout.decode().strip()
