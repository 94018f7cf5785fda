"""Download weights into assets/weights: pretrained backbones, and the networks that upstream has trained.

    python3 tools/download.py [NAME...] [--to DIR]

NAME: swint, res50, effb0 (a backbone file each), backbones (these three, the default),
      swint_ep30, swint_ep110, res50_ep30, effb0_ep30 (upstream's trained networks), checkpoints (these four), all

Needs no package. An interrupted download goes on where it stopped; a file that is there and whole is left alone.
Checksums: two backbone files have the first digits of theirs in their names. Of the others none is published, so the
first download's is written to DIR/SHA256SUMS, and compared from then on. PIVOTNET_RELEASE names a mirror.

Without a network: fetch the files on another machine with this script, or by hand from
https://github.com/wenjie710/PivotNet/releases/tag/v1.0, and copy them into assets/weights under their own names.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pivotnet.config import BACKBONES, RELEASE, WEIGHT_MAGIC  # noqa: E402
from pivotnet.errors import PivotNetError  # noqa: E402
from pivotnet.files import make_folder  # noqa: E402

SUMS = "SHA256SUMS"
FILES = {
    **{name: [backbone.weight_file] for name, backbone in BACKBONES.items()},
    **{name: [f"pivotnet_nuscenes_{name}.pth"] for name in ("swint_ep30", "swint_ep110", "res50_ep30", "effb0_ep30")},
}
FILES["backbones"] = [backbone.weight_file for backbone in BACKBONES.values()]
FILES["checkpoints"] = [name for key, names in FILES.items() if "_ep" in key for name in names]
FILES["all"] = FILES["backbones"] + FILES["checkpoints"]
PUBLISHED = {backbone.weight_file: backbone.sha256 for backbone in BACKBONES.values()}


def is_whole(path: Path, name: str) -> bool:
    """Whether a file has the checksum that is known of ``name``; without one: whether it is a weight file at all."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    sums = path.parent / SUMS
    lines = [line.split() for line in sums.read_text().splitlines()] if sums.is_file() else []
    known = PUBLISHED.get(name) or next((line[0] for line in lines if line[1:] == [name]), "")
    if known:
        return digest.startswith(known)
    if not content.startswith(WEIGHT_MAGIC):  # a proxy's error page
        return False
    with open(sums, "a") as stream:
        stream.write(f"{digest}  {name}\n")
    print(f"{name}: no checksum is published; SHA-256 {digest}, written to {sums}")
    return True


def receive(url: str, part: Path) -> None:
    """Append to ``part`` what it lacks of ``url``; where the server cannot go on in the middle, start anew."""
    start = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            with open(part, "ab" if start and answer.status == 206 else "wb") as stream:
                while block := answer.read(1 << 20):
                    stream.write(block)
                if answer.length:
                    raise http.client.IncompleteRead(b"", answer.length)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:
            raise
        part.unlink()  # whole already, or longer than the file: start anew, the checksum decides
        receive(url, part)


def fetch(name: str, folder: Path) -> None:
    """A file into ``folder``, under its name only when it is whole."""
    path, part = folder / name, folder / f"{name}.part"
    url = f"{(os.environ.get('PIVOTNET_RELEASE') or RELEASE).rstrip('/')}/{name}"
    if path.is_file():
        if not is_whole(path, name):
            raise PivotNetError(f"{path} is damaged (its SHA-256 is not the known one): remove it, then run this again")
        print(f"{name} is there")
        return
    print(f"downloading {name}", flush=True)
    try:
        receive(url, part)
    except (OSError, http.client.HTTPException) as error:
        raise PivotNetError(
            f"cannot download {url} ({error}): without a network, fetch it on another machine and copy it to {path}; "
            "what has arrived is kept, run this again to go on"
        ) from error
    if not is_whole(part, name):
        part.unlink()
        raise PivotNetError(f"what {url} sent is damaged or no weight file; run this again, or fetch it by hand")
    part.rename(path)
    print(path)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FILES))
    parser.add_argument("--to", type=Path, metavar="DIR", default=ROOT / "assets" / "weights", help="the folder")
    args = parser.parse_args(argv)
    try:
        for name in args.names:
            if name not in FILES:
                raise PivotNetError(f"unknown name {name}: choose from {', '.join(FILES)}")
        for file in dict.fromkeys(file for name in args.names or ["backbones"] for file in FILES[name]):
            fetch(file, make_folder(args.to, "--to"))
    except PivotNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
