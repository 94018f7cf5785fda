"""Where the car drives: a walk through the lanes of a town, and the places along it where samples are taken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry import LineString, Polygon

from pivotnet.synthetic import geometry
from pivotnet.synthetic.town import Town

SCENE_LENGTH = 140.0  # metres driven in a scene: 20 seconds
SPEED = 7.0  # metres a second
SHORTEST_SPACING = 3.5  # metres between samples: half a second, as nuScenes' key frames
CANDIDATES = 12  # walks tried a scene; the one that sees most is driven
WINDOW = (60.0, 30.0)  # metres around the car in which map elements count
MARGIN = 1.5  # metres: an element counts when it reaches this far into the window


@dataclass(frozen=True)
class Pose:
    """Place of the car in the map's frame; yaw in radians, counter-clockwise from x."""

    x: float
    y: float
    yaw: float


def spacing(samples: int) -> float:
    """Metres between the samples of a scene."""
    return max(SHORTEST_SPACING, SCENE_LENGTH / max(1, samples - 1))


class Sights:
    """Which of the three classes of map elements can be seen from where."""

    def __init__(self, town: Town) -> None:
        roads = town.layout.roads
        self._trees = [
            shapely.STRtree([LineString(divider.line) for road in roads for divider in road.dividers()]),
            shapely.STRtree([Polygon(crossing.corners) for road in roads for crossing in road.crossings]),
            shapely.STRtree(
                [
                    LineString(line)
                    for part in shapely.get_parts(town.paved)
                    for ring in (part.exterior, *part.interiors)
                    for line in np.array_split(np.array(ring.coords), max(1, len(ring.coords) // 20))
                    if len(line) > 1
                ]
            ),
        ]

    def classes(self, pose: Pose) -> tuple[bool, bool, bool]:
        """Whether a divider, a crossing and a boundary lie in the window around the pose."""
        length, width = WINDOW[0] - 2 * MARGIN, WINDOW[1] - 2 * MARGIN
        window = Polygon(geometry.rectangle(np.array([pose.x, pose.y]), length, width, pose.yaw))
        divider, crossing, boundary = (len(tree.query(window, predicate="intersects")) > 0 for tree in self._trees)
        return divider, crossing, boundary


def drive(town: Town, sights: Sights, samples: int, rng: np.random.Generator) -> list[Pose]:
    """Poses of the samples of one scene, along the walk (of several) whose samples see most classes."""
    best: list[Pose] = []
    most = -1
    for _ in range(CANDIDATES):
        poses = _poses(_walk(town, (samples - 1) * spacing(samples), rng), samples, rng)
        seen = sum(sum(sights.classes(pose)) for pose in poses)
        if seen > most:
            best, most = poses, seen
        if most == 3 * samples:
            break
    return best


def park(town: Town, rng: np.random.Generator) -> Pose:
    """A pose in the middle of the yard, out of sight of every map element."""
    x, y = town.yard.mean(axis=0) + rng.uniform(-6, 6, 2)
    return Pose(float(x), float(y), float(rng.uniform(-np.pi, np.pi)))


def _walk(town: Town, length: float, rng: np.random.Generator) -> np.ndarray:
    """A driving line of at least ``length`` metres from a random lane on: [n, 2]."""
    onwards: dict[tuple[int, int], list[int]] = {}
    for index, connector in enumerate(town.connectors):
        onwards.setdefault(connector.entering, []).append(index)
    starts = sorted(onwards)
    while True:
        lane = starts[rng.integers(len(starts))]
        parts = [_lane_line(town, lane)]
        driven = geometry.arc_lengths(parts[0])[-1]
        while driven < length + 2.0 and lane in onwards:
            connector = town.connectors[onwards[lane][rng.integers(len(onwards[lane]))]]
            lane = connector.leaving
            for line in (connector.line, _lane_line(town, lane)):
                parts.append(line[1:])
                driven += geometry.arc_lengths(line)[-1]
        if driven >= length + 2.0:
            return np.concatenate(parts)


def _lane_line(town: Town, lane: tuple[int, int]) -> np.ndarray:
    """Driving line of a whole lane, in driving direction: [n, 2]."""
    pieces = [piece for piece in town.lanes[lane[0]] if piece.number == lane[1]]
    ordered = pieces if pieces[0].forward else pieces[::-1]
    return np.concatenate([ordered[0].centre, *(piece.centre[1:] for piece in ordered[1:])])


def _poses(line: np.ndarray, samples: int, rng: np.random.Generator) -> list[Pose]:
    """Poses at equal distances along a driving line, a little beside it as people drive."""
    total = geometry.arc_lengths(line)[-1]
    step = spacing(samples)
    first = rng.uniform(1.0, max(1.0, total - (samples - 1) * step - 1.0))
    distances = first + step * np.arange(samples)
    points = geometry.at_lengths(line, distances)
    ahead = geometry.at_lengths(line, distances + 1.0) - geometry.at_lengths(line, distances - 1.0)
    yaws = np.arctan2(ahead[:, 1], ahead[:, 0]) + rng.normal(0.0, 0.015, samples)
    aside = rng.normal(0.0, 0.15, samples)[:, None] * np.stack([-np.sin(yaws), np.cos(yaws)], axis=1)
    return [Pose(float(x), float(y), float(yaw)) for (x, y), yaw in zip(points + aside, yaws)]
