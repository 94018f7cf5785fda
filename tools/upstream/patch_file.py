"""A unified diff as data: files, hunks and lines, with their line endings."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

HUNK = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
NO_NEWLINE = b"\\ No newline at end of file"


class PatchError(Exception):
    """The patch does not parse, or breaks a rule; one line."""


@dataclass
class Hunk:
    """Lines as (sign, content with its ending)."""

    start: int  # first line in the old file, from 1
    lines: list[tuple[str, bytes]] = field(default_factory=list)

    def side(self, sign: str) -> list[bytes]:
        """Lines of the old file ("-") or of the new one ("+")."""
        return [content for mark, content in self.lines if mark in (" ", sign)]

    def marked(self, sign: str) -> list[bytes]:
        """Removed ("-"), added ("+") or context (" ") lines."""
        return [content for mark, content in self.lines if mark == sign]


@dataclass
class FilePatch:
    """The hunks of one file."""

    path: str
    hunks: list[Hunk] = field(default_factory=list)


@dataclass
class Patch:
    """Header lines above the first file, and the files."""

    header: list[str]
    files: list[FilePatch]

    def lines(self, sign: str) -> list[tuple[str, bytes]]:
        """All lines of that sign, with their file."""
        return [(file.path, line) for file in self.files for hunk in file.hunks for line in hunk.marked(sign)]


def parse(data: bytes) -> Patch:
    """Parse a diff that git has written.

    Raises:
        PatchError: no diff, a count that is wrong, or a file that is added, deleted, renamed or binary.
    """
    rows = data.splitlines(keepends=True)
    first = next((i for i, row in enumerate(rows) if row.startswith(b"diff --git ")), None)
    if first is None:
        raise PatchError("there is no 'diff --git' line")
    patch = Patch([row.decode().rstrip("\r\n") for row in rows[:first]], [])
    index = first
    while index < len(rows):
        row = rows[index]
        if row.startswith(b"diff --git "):
            patch.files.append(FilePatch(row.split(b" b/", 1)[1].decode().strip()))
        elif row.startswith(b"@@ "):
            index = _hunk(rows, index, patch.files[-1])
            continue
        elif not row.startswith((b"index ", b"--- a/", b"+++ b/")):
            raise PatchError(
                f"line {index + 1} is not expected in a thin patch: {row.decode(errors='replace').strip()}"
            )
        index += 1
    empty = [file.path for file in patch.files if not file.hunks]
    if empty:
        raise PatchError(f"{empty[0]} has no hunk")
    return patch


def _hunk(rows: list[bytes], index: int, file: FilePatch) -> int:
    match = HUNK.match(rows[index])
    if match is None:
        raise PatchError(f"line {index + 1} is no hunk header")
    start, old, _, new = (1 if group is None else int(group) for group in match.groups())
    hunk = Hunk(start)
    index += 1
    while index < len(rows) and (len(hunk.side("-")) < old or len(hunk.side("+")) < new):
        sign, content = rows[index][:1].decode(), rows[index][1:]
        if sign not in (" ", "-", "+"):
            raise PatchError(f"line {index + 1} belongs to no hunk")
        index += 1
        if index < len(rows) and rows[index].startswith(NO_NEWLINE):
            content = content.rstrip(b"\n")
            index += 1
        hunk.lines.append((sign, content))
    if len(hunk.side("-")) != old or len(hunk.side("+")) != new:
        raise PatchError(f"the hunk of {file.path} at line {start} does not have the lines that its header counts")
    file.hunks.append(hunk)
    return index
