"""Check of the checkout of upstream that the patch is for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pivotnet.doctor.finding import ERROR, NOTE, OK, WARNING, Finding
from pivotnet.doctor.machine import Machine

TOPIC = "checkout"
COMMIT_FILE = Path(__file__).resolve().parents[2] / "tools" / "upstream_commit"
# Empty where the package is installed without the repository: then there is no patch to fit either.
PINNED = COMMIT_FILE.read_text().strip() if COMMIT_FILE.is_file() else ""


def check_checkout(machine: Machine, folder: Path, patch: Path, named: bool) -> Iterator[Finding]:
    """Whether upstream lies in ``folder`` at the pinned commit with the patch applied.

    Args:
        machine: runs git.
        folder: the checkout.
        patch: pivotnet.patch.
        named: whether the user named the folder; then it must be there.
    """
    if not (folder / "run.sh").is_file():
        if named:
            text = f"PIVOTNET_DIR={folder} is no checkout of upstream"
            yield Finding(TOPIC, ERROR, text, "unset it to train the built-in network")
        else:
            yield Finding(TOPIC, NOTE, f"none in {folder}: the built-in network is trained")
        return
    head = machine.run("git", "-C", str(folder), "rev-parse", "HEAD")
    if head is None or head.status != 0:
        yield Finding(TOPIC, NOTE, f"{folder} is no git repository: its commit is unknown")
    elif PINNED and head.text.strip() != PINNED:
        text = f"{folder} is at commit {head.text.strip()[:12]}, the patch is for {PINNED[:12]}"
        yield Finding(TOPIC, ERROR, text, f"git -C {folder} checkout {PINNED}, then apply the patch")
        return
    if not patch.is_file():
        yield Finding(TOPIC, WARNING, f"{patch} is missing: cannot tell whether {folder} is patched")
        return
    undo = machine.run("git", "-C", str(folder), "apply", "--reverse", "--check", str(patch))
    if undo is None:
        return
    if undo.status == 0:
        yield Finding(TOPIC, OK, f"{folder} has the patch")
        return
    apply = machine.run("git", "-C", str(folder), "apply", "--check", "--whitespace=fix", str(patch))
    remedy = f"cd {folder} && git apply --reject --whitespace=fix {patch}"
    if apply is not None and apply.status == 0:
        yield Finding(TOPIC, ERROR, f"{folder} is not patched: it would not run here", remedy)
    else:
        text = f"{folder} differs from the patched tree (changed by hand, or an older patch)"
        yield Finding(TOPIC, WARNING, text, f"git -C {folder} checkout . first, then {remedy}")
