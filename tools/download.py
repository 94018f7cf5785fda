"""Download weights into assets/weights: pretrained backbones, and the networks that upstream has trained.

    python3 tools/download.py [NAME...] [--to DIR]

NAME: swint, res50, effb0 (a backbone file each), backbones (these three, the default),
      swint_ep30, swint_ep110, res50_ep30, effb0_ep30 (upstream's trained networks), checkpoints (these four), all

Needs no package. A file that is there and whole is left alone. Two backbone files have the first digits of their
checksums in their names; of the others none is published. PIVOTNET_RELEASE names a mirror.

Without a network: fetch the files on another machine with this script, or by hand from
https://github.com/wenjie710/PivotNet/releases/tag/v1.0, and copy them into assets/weights under their own names."""

from __future__ import annotations

import argparse
import hashlib
import os
import socket
import sys
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pivotnet.commands import OptionParser  # noqa: E402
from pivotnet.config import BACKBONES, RELEASE, WEIGHT_MAGIC  # noqa: E402
from pivotnet.errors import PivotNetError, run_command  # noqa: E402
from pivotnet.files import make_folder  # noqa: E402

PUBLISHED = {backbone.weight_file: backbone.sha256 for backbone in BACKBONES.values()}
TRAINED = {name: f"pivotnet_nuscenes_{name}.pth" for name in ("swint_ep30", "swint_ep110", "res50_ep30", "effb0_ep30")}
FILES = {
    **{name: [backbone.weight_file] for name, backbone in BACKBONES.items()},
    **{name: [file] for name, file in TRAINED.items()},
    "backbones": list(PUBLISHED),
    "checkpoints": list(TRAINED.values()),
    "all": [*PUBLISHED, *TRAINED.values()],
}


def is_whole(path: Path, name: str) -> bool:
    """Whether a file has the checksum that is known of ``name``; without one: whether it is a weight file at all."""
    content = path.read_bytes()
    if PUBLISHED.get(name):
        return hashlib.sha256(content).hexdigest().startswith(PUBLISHED[name])
    return content.startswith(WEIGHT_MAGIC)  # a proxy's error page does not


def fetch(name: str, folder: Path) -> None:
    """A file into ``folder``, under its name only when it is whole."""
    path, part = folder / name, folder / f"{name}.part"
    url = f"{(os.environ.get('PIVOTNET_RELEASE') or RELEASE).rstrip('/')}/{name}"
    if path.is_file():
        if not is_whole(path, name):
            raise PivotNetError(f"{path} is damaged or no weight file: remove it, then run this again")
        print(f"{name} is there")
        return
    print(f"downloading {name}", flush=True)
    try:
        urllib.request.urlretrieve(url, part)
        whole = is_whole(part, name)
        if whole:
            part.rename(path)
    except OSError as error:
        remedy = f"run this again; on a bad network, curl -C - -Lo {path} {url} goes on where it stopped"
        without = f"without a network, fetch it on another machine and copy it to {path}"
        raise PivotNetError(f"cannot download {url} ({error}): {remedy}; {without}") from error
    finally:
        part.unlink(missing_ok=True)
    if not whole:
        raise PivotNetError(f"what {url} sent is damaged or no weight file; run this again, or fetch it by hand")
    print(path)


def main(argv: list[str] | None = None) -> int:
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FILES))
    parser.add_argument("--to", type=Path, metavar="DIR", default=ROOT / "assets" / "weights", help="the folder")
    args = parser.parse_args(argv)
    socket.setdefaulttimeout(20)  # seconds without an answer
    for name in args.names:
        if name not in FILES:
            raise PivotNetError(f"unknown name {name}: choose from {', '.join(FILES)}")
    for file in dict.fromkeys(file for name in args.names or ["backbones"] for file in FILES[name]):
        fetch(file, make_folder(args.to, "--to"))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
