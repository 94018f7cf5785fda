"""nuScenes' official splits: which scenes are for training and which for validation."""

from __future__ import annotations

import re

from pivotnet.errors import PivotNetError

# Scene numbers (first, last) of the 150 validation scenes of v1.0-trainval; its other 700 scenes are for training.
# Facts published with the data set (nuscenes.org).
_VAL_RUNS = (
    *((3, 3), (12, 18), (35, 36), (38, 39), (92, 110), (221, 221), (268, 278), (329, 332), (344, 346)),
    *((519, 524), (552, 565), (625, 627), (629, 630), (632, 638), (770, 771), (775, 775), (777, 778)),
    *((780, 784), (794, 800), (802, 802), (904, 917), (919, 931), (962, 963), (966, 969), (971, 972), (1059, 1073)),
)
VAL_SCENES = frozenset(number for first, last in _VAL_RUNS for number in range(first, last + 1))
MINI_VAL_SCENES = frozenset((103, 916))  # the other 8 scenes of v1.0-mini are for training


def splits_of(version: str) -> tuple[str, ...]:
    """Names of the splits that a version of the tables has."""
    return ("test",) if version.endswith("test") else ("train", "val")


def split_of_scene(scene_name: str, version: str) -> str:
    """The split (train, val or test) of a scene; v1.0-mini has its own.

    Raises:
        PivotNetError: the name is not of the form scene-0001.
    """
    match = re.fullmatch(r"scene-(\d+)", scene_name)
    if match is None:
        raise PivotNetError(f"scene {scene_name!r} has no number: name scenes like scene-0001, splits go by number")
    if version.endswith("test"):
        return "test"
    val = MINI_VAL_SCENES if version.endswith("mini") else VAL_SCENES
    return "val" if int(match.group(1)) in val else "train"
