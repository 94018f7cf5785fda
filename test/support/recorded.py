"""Where the recordings of upstream lie, and a small data set of theirs for tests of annotation."""

import os
import tarfile
from pathlib import Path

COMMITTED = Path(__file__).parents[1] / "golden" / "recordings"
RECORDINGS = Path(os.environ.get("PIVOTNET_GOLDEN", COMMITTED))


def unpack(folder: Path, *names: str) -> None:
    for name in names:
        with tarfile.open(COMMITTED / f"{name}.tar.gz") as archive:
            archive.extractall(folder)


def unpack_hard_samples(folder: Path) -> Path:
    """Eight samples without images in folder/nuscenes; what upstream's converter wrote for them in folder/npz, and with
    --bezier in folder/bezier.npz. Returns folder/nuscenes.

    The map is cut to 34 m around them. One sample has 177 lines, one none; there are roundabouts, islands, lines that
    the window splits, crossings cut by its edge, and lines that shrink to a point.
    """
    unpack(folder, "small_nuscenes", "small_npz")
    return folder / "nuscenes"
