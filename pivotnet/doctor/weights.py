"""Checks of pretrained backbone files, downloaded or placed by hand."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pivotnet.config import BACKBONES
from pivotnet.doctor.finding import ERROR, NOTE, OK, WARNING, Finding

TOPIC = "weights"
# file name by preset. Two of the names end in the first digits of their SHA-256.
FILES = {name: backbone.weight_file for name, backbone in BACKBONES.items()}
_DIGEST = re.compile(r"-([0-9a-f]{8})\.pth$")
MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x04")  # a zip file, or pickle as torch wrote it before 1.6


def named_digest(name: str) -> str:
    """The digits of SHA-256 that a file name carries; empty without any."""
    match = _DIGEST.search(name)
    return match.group(1) if match else ""


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def problem_of(path: Path) -> str:
    """What is wrong with a weight file; empty when nothing is."""
    try:
        with open(path, "rb") as stream:
            start = stream.read(4)
        if not start.startswith(MAGIC):
            return "is no weight file (a web page, or a pointer of Git LFS?)"
        wanted = named_digest(path.name)
        found = sha256(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if wanted and not found.startswith(wanted):
        return f"has SHA-256 {found[:8]}..., not {wanted}...: it is damaged or cut off"
    return ""


def check_weights(folders: Sequence[Path]) -> Iterator[Finding]:
    """The backbone files in the first of ``folders`` that has them."""
    for preset, name in FILES.items():
        found = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if found is None:
            text = f"{name} ({preset}) is not in {folders[0]}: the backbone would start untrained"
            remedy = f"bash tools/download.sh {preset}, or place the file there by hand"
            yield Finding(TOPIC, WARNING if preset == "swint" else NOTE, text, remedy)
            continue
        problem = problem_of(found)
        if problem:
            remedy = f"remove it, then bash tools/download.sh {preset}"
            yield Finding(TOPIC, ERROR, f"{found} {problem}", remedy)
        elif named_digest(name):
            yield Finding(TOPIC, OK, f"{found}: SHA-256 as in its name")
        else:
            size = found.stat().st_size >> 20
            yield Finding(TOPIC, OK, f"{found}: {size} MiB, SHA-256 {sha256(found)[:16]}... (none is published)")
