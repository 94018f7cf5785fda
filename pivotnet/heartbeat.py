"""Which rank of a run is silent: each keeps a file of its progress, which the process that started the ranks reads. A
rank counts where it arrives at what all ranks do in the same order. Those with the least count are the ones for which
the others wait. A rank whose file is not renewed has stopped as a whole."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FOLDER = "PIVOTNET_HEARTBEATS"  # environment variable: where the files are; without it there are none
SILENCE = "PIVOTNET_SILENCE"  # environment variable: seconds without progress after which a rank is reported (600)
INTERVAL = 1.0  # seconds between renewals of a file

_count = 0
_since = 0.0  # when the process last did something, seconds since the epoch


def alive() -> None:
    """This rank does something of its own."""
    global _since
    _since = time.time()


def arrive() -> None:
    """This rank has come to a point to which all ranks come in the same order."""
    global _count
    _count += 1
    alive()


def start(rank: int) -> Callable[[], None]:
    """Keep this rank's file up to date from now on; returns the function that ends that."""
    ended = threading.Event()
    alive()
    if FOLDER in os.environ:
        path = Path(os.environ[FOLDER]) / str(rank)
        threading.Thread(target=_renew, args=(path, ended), daemon=True).start()
    return ended.set


def _renew(path: Path, ended: threading.Event) -> None:
    with contextlib.suppress(OSError):  # the folder goes with the process that reads it
        while not ended.is_set():
            path.with_suffix(".new").write_text(f"{os.getpid()} {_count} {_since}")
            path.with_suffix(".new").replace(path)
            ended.wait(INTERVAL)
        path.unlink()


@dataclass(frozen=True, order=True)
class Heartbeat:
    rank: int
    process: int
    count: int
    since: float
    renewed: float


def read(folder: Path) -> list[Heartbeat]:
    found = []
    for path in folder.glob("*[0-9]"):
        with contextlib.suppress(OSError):  # it has ended just now
            process, count, since = path.read_text().split()
            found.append(Heartbeat(int(path.name), int(process), int(count), float(since), path.stat().st_mtime))
    return sorted(found)


def silent(beats: list[Heartbeat], limit: float, now: float) -> dict[int, float]:
    """{rank: since when} of the ranks that have been silent for ``limit`` seconds, at ``now`` (since the epoch)."""
    stopped = {beat.rank: beat.renewed for beat in beats if now - beat.renewed > limit}
    least = min((beat.count for beat in beats), default=0)
    return stopped or {beat.rank: beat.since for beat in beats if beat.count == least and now - beat.since > limit}
