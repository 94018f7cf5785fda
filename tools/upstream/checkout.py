"""The pinned checkout of upstream and the patch onto it, for maintainers. PIVOTNET_DIR names another folder than
PivotNet/; PIVOTNET_UPSTREAM a clean checkout that check may read."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import patch_check

from pivotnet.commands import OptionParser
from pivotnet.errors import PivotNetError, run_command
from pivotnet.files import atomic_write

ROOT = Path(__file__).resolve().parents[2]
PATCH = ROOT / "pivotnet.patch"
CHECKOUT = Path(os.environ.get("PIVOTNET_DIR", ROOT / "PivotNet")).absolute()
COMMIT = (ROOT / "tools" / "upstream_commit").read_text().strip()
URL = "https://github.com/wenjie710/PivotNet.git"


def git(folder: Path, *words: object, quiet: bool = False) -> bool:
    """Run git in a folder, its messages shown unless ``quiet``; whether it succeeded."""
    shown = subprocess.DEVNULL if quiet else None
    return subprocess.run(["git", "-C", str(folder), *map(str, words)], stdout=shown, stderr=shown).returncode == 0


def require_checkout() -> None:
    """Raise PivotNetError unless CHECKOUT is at the pinned commit."""
    if not CHECKOUT.is_dir():
        raise PivotNetError(f"there is no checkout in {CHECKOUT}; make it with: tools/upstream.sh fetch")
    found = patch_check.commit_of(CHECKOUT)
    if found != COMMIT:
        raise PivotNetError(
            f"{CHECKOUT} is at commit {found or 'none'}, not at the pinned {COMMIT}; "
            "move it away and run: tools/upstream.sh fetch"
        )


def is_patched() -> bool:
    """Whether the patch's reverse applies."""
    return git(CHECKOUT, "apply", "--reverse", "--check", PATCH, quiet=True)


def fetch(source: str) -> str:
    """Lay out the pinned commit; a checkout appears whole or not at all."""
    if CHECKOUT.exists():
        require_checkout()
        return f"{CHECKOUT} is at the pinned commit already"
    CHECKOUT.parent.mkdir(parents=True, exist_ok=True)
    if Path(source).is_dir():
        source = str(Path(source).resolve())
    with tempfile.TemporaryDirectory(prefix=".upstream.", dir=CHECKOUT.parent) as scratch:
        tree = Path(scratch) / "tree"
        if not git(Path(scratch), "clone", "--quiet", "--no-checkout", source, tree):
            raise PivotNetError(
                f"cannot clone {source}; without a network, copy a clone of {URL} here and run: "
                "tools/upstream.sh fetch --from DIR"
            )
        if not git(tree, "cat-file", "-e", f"{COMMIT}^{{commit}}", quiet=True):
            raise PivotNetError(f"{source} does not have the pinned commit {COMMIT}; name a complete clone of {URL}")
        git(tree, "config", "core.autocrlf", "false")
        # The pictures of upstream's README are left out: big, and not all clones have them.
        git(tree, "config", "core.sparseCheckout", "true")
        (tree / ".git" / "info").mkdir(exist_ok=True)
        (tree / ".git" / "info" / "sparse-checkout").write_text("/*\n!/assets/figures/\n")
        if not git(tree, "-c", "advice.detachedHead=false", "checkout", "--quiet", COMMIT):
            raise PivotNetError(f"cannot check out {COMMIT} from {source}; the clone is damaged, name another one")
        tree.rename(CHECKOUT)
    return f"laid out {CHECKOUT} at {COMMIT}"


def apply() -> str:
    """Apply the patch."""
    require_checkout()
    if is_patched():
        return f"{CHECKOUT} has the patch already"
    if not git(CHECKOUT, "apply", "--check", PATCH) or not git(CHECKOUT, "apply", "--whitespace=fix", PATCH):
        raise PivotNetError(
            f"the patch does not fit {CHECKOUT}: it has changes of its own; see git -C {CHECKOUT} status"
        )
    return f"applied {PATCH}"


def revert() -> str:
    """Revert the patch."""
    require_checkout()
    # the lines that come back are upstream's, whatever their white space
    if not is_patched() or not git(CHECKOUT, "apply", "--reverse", "--whitespace=nowarn", PATCH):
        raise PivotNetError(f"{CHECKOUT} does not have the patch; nothing was changed")
    return f"reverted {PATCH}"


def pack() -> str:
    """Write the diff of the checkout below the header of the patch."""
    require_checkout()
    words = "-c core.quotePath=false diff --no-ext-diff --no-color --no-renames --src-prefix=a/ --dst-prefix=b/"
    command = ["git", "-C", str(CHECKOUT), *words.split(), "--abbrev=7", "-U1", COMMIT, "--", ".", ":!assets"]
    diff = subprocess.run(command, stdout=subprocess.PIPE).stdout
    if not diff:
        raise PivotNetError(f"{CHECKOUT} has no changes to pack; {PATCH} was left as it is")
    old = PATCH.read_bytes() if PATCH.is_file() else b""
    with atomic_write(PATCH) as stream:
        stream.write(re.split(rb"^diff --git ", old, maxsplit=1, flags=re.MULTILINE)[0] + diff)
    return f"packed {PATCH}"


def check() -> str:
    """The patch's figures; lists its faults and exits with status 1, if it has some."""
    named = os.environ.get("PIVOTNET_UPSTREAM")
    upstream = Path(named) if named else CHECKOUT if (CHECKOUT / ".git").exists() else None
    faults = patch_check.check(PATCH, upstream, COMMIT)
    for fault in faults:
        print(f"fault: {fault}", file=sys.stderr)
    if faults:
        sys.exit(1)
    figures = patch_check.parse(PATCH.read_bytes()).counts()
    skipped = "skipped: the checks on upstream's own tree (no checkout; tools/upstream.sh fetch lays it out)"
    return ", ".join(f"{number} {what}" for what, number in figures.items()) + f"\n{skipped}" * (upstream is None)


def _run() -> int:
    parser = OptionParser(prog="tools/upstream.sh", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for command, text in (
        (fetch, "lay out PivotNet/ at the pinned commit"),
        (apply, "apply the patch"),
        (revert, "revert the patch"),
        (pack, "diff of the checkout -> pivotnet.patch, its header kept"),
        (check, "check the patch, on the real tree too if a checkout is at hand"),
    ):
        sub = commands.add_parser(command.__name__, help=text)
        sub.set_defaults(command=command)
        if command is fetch:
            sub.add_argument("--from", dest="source", default=URL, metavar="URL-or-DIR", help="another clone of it")
    arguments = vars(parser.parse_args())
    print(arguments.pop("command")(**arguments))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(_run))
