"""Scene names of nuScenes' own train and val splits (v1.0-trainval), as ranges of the numbers in ``scene-NNNN``.

Kept here so that making a data set does not need the nuscenes-devkit; a test holds them against its lists.
"""

from __future__ import annotations

from pivotnet.errors import PivotNetError

# fmt: off
TRAIN_RANGES = (
    (1, 2), (4, 11), (19, 34), (41, 76), (120, 135), (138, 139), (149, 152), (154, 155), (157, 168), (170, 185),
    (187, 188), (190, 196), (199, 200), (202, 204), (206, 214), (218, 220), (222, 222), (224, 264), (283, 306),
    (315, 318), (321, 321), (323, 324), (328, 328), (347, 386), (388, 403), (405, 408), (410, 459), (461, 465),
    (467, 469), (471, 472), (474, 480), (499, 502), (504, 515), (517, 518), (525, 539), (541, 546), (566, 566),
    (568, 568), (570, 578), (580, 580), (582, 600), (639, 679), (681, 681), (683, 689), (695, 698), (700, 701),
    (703, 719), (726, 728), (730, 731), (733, 741), (744, 744), (746, 747), (749, 752), (757, 765), (767, 769),
    (786, 787), (789, 792), (803, 806), (808, 813), (815, 817), (819, 822), (847, 856), (858, 858), (860, 866),
    (868, 873), (875, 878), (880, 880), (882, 903), (945, 945), (947, 947), (949, 949), (952, 953), (955, 961),
    (975, 984), (988, 992), (994, 1025), (1044, 1058), (1074, 1102), (1104, 1110),
)
VAL_RANGES = (
    (3, 3), (12, 18), (35, 36), (38, 39), (92, 110), (221, 221), (268, 278), (329, 332), (344, 346), (519, 524),
    (552, 565), (625, 627), (629, 630), (632, 638), (770, 771), (775, 775), (777, 778), (780, 784), (794, 800),
    (802, 802), (904, 917), (919, 931), (962, 963), (966, 969), (971, 972), (1059, 1073),
)
# fmt: on
MOST_SCENES = 600  # every fourth is for val, which has 150 names


def names(ranges: tuple[tuple[int, int], ...]) -> list[str]:
    """The names in these inclusive ranges, in order."""
    return [f"scene-{number:04d}" for first, last in ranges for number in range(first, last + 1)]


def is_val(scene: int, scenes: int) -> bool:
    """Whether the ``scene``-th of ``scenes`` belongs to val: every fourth, or the last of two or three."""
    return scene % 4 == 3 or (1 < scenes < 4 and scene == scenes - 1)


def assign(scenes: int) -> list[str]:
    """A name for every scene, from the split that :func:`is_val` says.

    Raises:
        PivotNetError: no scene, or more than nuScenes' splits have names for.
    """
    if not 1 <= scenes <= MOST_SCENES:
        raise PivotNetError(f"--scenes {scenes} is outside 1 to {MOST_SCENES}, what nuScenes' splits have names for")
    pools = {False: iter(names(TRAIN_RANGES)), True: iter(names(VAL_RANGES))}
    return [next(pools[is_val(scene, scenes)]) for scene in range(scenes)]
