"""Check pivotnet.patch: rules of thinness, imports, and that git applies and reverts it.

    python tools/upstream/check_patch.py pivotnet.patch [--upstream DIR --commit HASH]

Without upstream the patch is applied to a stand-in that is rebuilt from its hunks. With a checkout at the pinned commit
it is applied to a copy of that too, the way users are told to. Exit status 1 and one line a fault if any is found.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from patch_file import Patch, PatchError, parse  # noqa: E402

QUOTED_LIMIT = 200  # context and removed lines: what the patch repeats of upstream
PACKAGE = "pivotnet.upstream"
HEADER_HUNKS = re.compile(r"  ((?:\d+ )+)\S")
VENDOR = re.compile(rb"\b(torch_npu|mx_driving|\.cuda\(|\.npu\(|transfer_to_npu)")


def counts(patch: Patch) -> dict[str, int]:
    """What the README tells of the patch."""
    return {
        "files": len(patch.files),
        "hunks": sum(len(file.hunks) for file in patch.files),
        "added": len(patch.lines("+")),
        "quoted": len(patch.lines(" ")) + len(patch.lines("-")),
    }


def faults_of_form(patch: Patch) -> list[str]:
    """Thinness, line endings, white space, commented-out code, vendor names, and the header."""
    faults = []
    quoted = counts(patch)["quoted"]
    if quoted > QUOTED_LIMIT:
        faults.append(f"the patch quotes {quoted} lines of upstream, more than {QUOTED_LIMIT}")
    for file in patch.files:
        for hunk in file.hunks:
            where = f"{file.path}:{hunk.start}"
            old = {_ending(line) for line in hunk.side("-")} - {b""}
            new = {_ending(line) for line in hunk.marked("+")} - {b""}
            if not new <= old and old:
                faults.append(f"{where}: added lines do not end as the file's lines do")
            removed = {line.strip() for line in hunk.marked("-")}
            for line in hunk.marked("+"):
                text = line.rstrip(b"\r\n")
                if text != text.rstrip():
                    faults.append(f"{where}: white space at the end of an added line")
                if text.lstrip().startswith(b"#") and text.lstrip(b" #") in {r.lstrip(b" #") for r in removed}:
                    faults.append(f"{where}: removed code is commented out: {text.strip().decode()}")
                if VENDOR.search(text):
                    faults.append(f"{where}: an added line names a vendor's device: {text.strip().decode()}")
            edges = [mark for mark, _ in hunk.lines]
            if edges[:2] == [" ", " "] or edges[-2:] == [" ", " "]:
                faults.append(f"{where}: more than one line of context")
    return faults + _header_faults(patch)


def _ending(line: bytes) -> bytes:
    if line.endswith(b"\r\n"):
        return b"\r\n"
    return b"\n" if line.endswith(b"\n") else b""


def _header_faults(patch: Patch) -> list[str]:
    """The header names every file, in order, and every hunk under it."""
    named: dict[str, Counter] = {}
    current = None
    paths = {file.path for file in patch.files}
    for line in patch.header:
        word = line.split(" ")[0]
        match = HEADER_HUNKS.match(line)
        if word in paths:
            current = word
            named[current] = Counter()
        elif match and current:
            named[current].update(int(number) for number in match[1].split())
        elif not line.startswith("    "):
            current = None
    faults = []
    if list(named) != [file.path for file in patch.files]:
        lost = [file.path for file in patch.files if file.path not in named]
        faults.append(f"the header does not name the files in their order{f' ({lost[0]} is missing)' if lost else ''}")
    for file in patch.files:
        wanted = Counter(range(1, len(file.hunks) + 1))
        if file.path in named and named[file.path] != wanted:
            faults.append(
                f"the header explains hunks {sorted(named[file.path].elements())} of {file.path}, "
                f"which has {len(file.hunks)}"
            )
    return faults


def faults_of_imports(patch: Patch) -> list[str]:
    """Every name that the patch takes from the package exists, and takes the arguments that added lines give it."""
    faults = []
    for file in patch.files:
        if not file.path.endswith(".py"):
            continue
        names: dict[str, Any] = {}
        added = [line.decode().strip() for hunk in file.hunks for line in hunk.marked("+")]
        for line in added:
            match = re.match(r"from (pivotnet[\w.]*) import (.+)", line)
            if match is None:
                continue
            if not match[1].startswith(PACKAGE):
                faults.append(f"{file.path} imports {match[1]}: the patch may import {PACKAGE} only")
                continue
            for alias in ast.parse(line).body[0].names:  # type: ignore[attr-defined]
                try:
                    names[alias.asname or alias.name] = getattr(importlib.import_module(match[1]), alias.name)
                except (ImportError, AttributeError) as error:
                    _require_packages(error)
                    faults.append(f"{file.path}: {match[1]} has no {alias.name}")
        for line in added:
            faults += [f"{file.path}: {fault}" for fault in _call_faults(line, names)]
    for path, line in patch.lines("+"):
        for module in re.findall(r"-m (pivotnet[\w.]*)", line.decode()):
            try:
                importlib.import_module(module)
            except ImportError as error:
                _require_packages(error)
                faults.append(f"{path}: there is no module {module}")
    return faults


def _require_packages(error: Exception) -> None:
    """Raise PatchError if the import failed for a package that is not installed, which says nothing about the patch."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if name not in ("", "pivotnet"):
        raise PatchError(
            f"the check needs the package {name}, which {sys.executable} lacks: pip install -r requirements.txt"
        )


def _call_faults(line: str, names: dict[str, Any]) -> list[str]:
    """Calls of imported names in an added line that do not fit their signatures; open calls are not judged."""
    try:
        tree = ast.parse(line)
    except SyntaxError:
        return []
    faults = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg}
            try:
                inspect.signature(names[node.func.id]).bind(*node.args, **keywords)
            except TypeError as error:
                faults.append(f"{node.func.id} is not called rightly: {error}")
    return faults


def stand_in(patch: Patch, folder: Path) -> None:
    """Files that hold the old sides of the hunks at their places, and numbered lines between them."""
    for file in patch.files:
        rows: list[bytes] = []
        for hunk in file.hunks:
            old = hunk.side("-")
            ending = next((_ending(line) for line in old if _ending(line)), b"\n")
            rows += [b"# line %d" % number + ending for number in range(len(rows) + 1, hunk.start)]
            rows += old
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"".join(rows))


def _git(folder: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True)


def faults_of_git(patch_path: Path, folder: Path) -> list[str]:
    """Apply in the repository ``folder`` as users do, then revert; it is left as it was."""
    patch = str(patch_path.resolve())
    before = _git(folder, "status", "--porcelain").stdout
    for words in (("apply", "--check", patch), ("apply", "--reject", "--whitespace=fix", patch)):
        done = _git(folder, *words)
        said = [
            line
            for line in done.stderr.splitlines()
            if not re.match(r"(Checking patch|Applied patch .* cleanly)", line)
        ]
        if done.returncode or said:
            return [f"git {' '.join(words[:-1])} says: {(said or ['exit status ' + str(done.returncode)])[0]}"]
    rejected = [str(path) for path in folder.rglob("*.rej")]
    if rejected:
        return [f"git apply left {rejected[0]}"]
    added = _git(folder, "diff", "--numstat").stdout.splitlines()
    expected = counts(parse(patch_path.read_bytes()))
    faults = []
    if sum(int(line.split()[0]) for line in added) > expected["added"] + expected["files"]:
        faults.append("git apply has rewritten more lines than the patch has: line endings were changed")
    _git(folder, "apply", "-R", "--whitespace=nowarn", patch)
    if _git(folder, "status", "--porcelain").stdout != before or _git(folder, "diff", "--quiet").returncode:
        faults.append("git apply -R leaves a trace")
    return faults


def _repository(folder: Path) -> None:
    for words in (
        ("init", "--quiet"),
        ("config", "core.autocrlf", "false"),
        ("add", "-A"),
        ("-c", "user.name=check", "-c", "user.email=check@localhost", "commit", "--quiet", "-m", "stand-in"),
    ):
        done = _git(folder, *words)
        if done.returncode:
            raise PatchError(f"git {words[0]} failed: {done.stderr.strip()}")


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
    faults = faults_of_form(patch) + faults_of_imports(patch)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stand_in(patch, folder)
        _repository(folder)
        faults += faults_of_git(path, folder)
    if upstream is not None:
        faults += _upstream_faults(path, patch, upstream, commit)
    return faults


def _upstream_faults(path: Path, patch: Patch, upstream: Path, commit: str | None) -> list[str]:
    found = _git(upstream, "rev-parse", "HEAD").stdout.strip()
    if commit is not None and found != commit:
        return [f"{upstream} is at commit {found or 'none'}, not at the pinned {commit}"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in patch.files:
            blob = subprocess.run(["git", "-C", str(upstream), "show", f"{found}:{file.path}"], capture_output=True)
            if blob.returncode:
                return [f"upstream has no file {file.path}"]
            (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
            (folder / file.path).write_bytes(blob.stdout)
        _repository(folder)
        return [f"on upstream: {fault}" for fault in faults_of_git(path, folder)]


def main() -> int:
    """Print the faults, or what the patch is like."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patch", type=Path)
    parser.add_argument("--upstream", type=Path, help="checkout of upstream")
    parser.add_argument("--commit", help="commit that the checkout must be at")
    arguments = parser.parse_args()
    try:
        faults = check(arguments.patch, arguments.upstream, arguments.commit)
    except PatchError as error:
        faults = [str(error)]
    for fault in faults:
        print(f"fault: {fault}", file=sys.stderr)
    if faults:
        return 1
    figures = counts(parse(arguments.patch.read_bytes()))
    print(", ".join(f"{number} {what}" for what, number in figures.items()))
    if arguments.upstream is None:
        print("skipped: the checks on upstream's own tree (no checkout; tools/upstream.sh fetch lays it out)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
