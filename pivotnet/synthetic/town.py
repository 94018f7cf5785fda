"""A town: roads and junctions of one location, as plain geometry in the map's frame (metres).

Junctions stand on a shaken grid; some inner roads are left out, so that junctions have two, three or four arms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry import Polygon

from pivotnet.synthetic import geometry
from pivotnet.synthetic.roads import LANE_WIDTH, SECTION_STEP, Road

LOCATIONS = ("singapore-onenorth", "singapore-hollandvillage", "singapore-queenstown", "boston-seaport")
BLOCK = 96.0  # metres between the junctions of the grid
SHAKE = 9.0  # largest displacement of a junction from its place on the grid, metres
BEND = 0.32  # largest turn of a road where it leaves a junction, radians
STRAIGHT_SHARE = 0.3  # of the roads
OMITTED_SHARE = 0.25  # of the roads between two junctions of four arms
LANES = ((1, 1), (1, 1), (2, 1), (1, 2), (2, 2), (2, 0), (3, 0))  # forward and backward, drawn with equal probability
MARGIN = 100.0  # metres of open land round the grid


@dataclass
class Arm:
    """The end of a road at a junction, seen from the junction outwards."""

    road: int
    section: np.ndarray  # [k, 2], from the right kerb to the left one
    outward: np.ndarray  # [2], unit vector
    entering: list[int]  # lanes of the road that lead into the junction
    leaving: list[int]


@dataclass
class Connector:
    """A way through a junction from the end of one lane to the start of another."""

    entering: tuple[int, int]  # road, lane
    leaving: tuple[int, int]
    line: np.ndarray  # [n, 2]


@dataclass
class Town:
    """One location; it lies between (0, 0) and (extent, extent)."""

    location: str
    extent: float
    roads: list[Road]
    junctions: list[np.ndarray]  # outlines, counter-clockwise, not closed: [n, 2]
    connectors: list[Connector]

    @property
    def drive_right(self) -> bool:
        """Whether traffic keeps to the right."""
        return self.location.startswith("boston")

    @property
    def segments(self) -> list[tuple[np.ndarray, np.ndarray | None, bool]]:
        """Outline, island and whether it is a junction, of every road segment of the map: roads, then junctions."""
        return [
            *((road.ring, road.island, False) for road in self.roads),
            *((ring, None, True) for ring in self.junctions),
        ]

    def paved(self) -> shapely.Geometry:
        """All road segments as one geometry."""
        return shapely.union_all([Polygon(ring, [] if hole is None else [hole]) for ring, hole, _ in self.segments])


def build_town(location: str, side: int, rng: np.random.Generator) -> Town:
    """A town of ``side`` x ``side`` junctions; the same generator state gives the same town."""
    town = Town(location, 2 * MARGIN + BLOCK * (side - 1), [], [], [])
    pairs = _pairs(side, rng)
    cells = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), axis=-1).reshape(-1, 2)
    nodes = MARGIN + BLOCK * cells + rng.uniform(-SHAKE, SHAKE, cells.shape)
    curves = [_curve(nodes[a], nodes[b], rng) for a, b in pairs]
    lanes = [LANES[rng.integers(len(LANES))] for _ in pairs]
    trims = _trims(pairs, curves, lanes)
    for (a, b), curve, (forward, backward), (first, last) in zip(pairs, curves, lanes, trims):
        centre = geometry.resample(curve, first, geometry.lengths_along(curve)[-1] - last, SECTION_STEP)
        median = forward + backward >= 3 and rng.random() < 0.6
        road = Road(a, b, centre, forward, backward, town.drive_right, median)
        _add_crossings(road, rng)
        town.roads.append(road)
    for node in range(len(nodes)):
        arms = _arms(town.roads, node)
        town.junctions.append(_outline(arms))
        town.connectors += _connectors(town.roads, arms)
    return town


def _pairs(side: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """The two junctions of every road."""
    number = np.arange(side * side).reshape(side, side)
    pairs = np.concatenate(
        [
            np.stack([number[:-1].ravel(), number[1:].ravel()], axis=1),
            np.stack([number[:, :-1].ravel(), number[:, 1:].ravel()], axis=1),
        ]
    )
    degree = np.bincount(pairs.ravel())
    kept = []
    for a, b in pairs.tolist():
        if min(degree[a], degree[b]) > 3 and rng.random() < OMITTED_SHARE:
            degree[[a, b]] -= 1
        else:
            kept.append((a, b) if rng.random() < 0.5 else (b, a))
    return kept


def _curve(start: np.ndarray, end: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Centre line between two junctions, finely sampled: [160, 2]."""
    heading = np.arctan2(*(end - start)[::-1])
    departure, arrival = heading + rng.uniform(-BEND, BEND, 2) * (rng.random() >= STRAIGHT_SHARE)
    return geometry.turn(start, geometry.unit(departure), end, geometry.unit(arrival), 160)


def _trims(pairs: list[tuple[int, int]], curves: list[np.ndarray], lanes: list[tuple[int, int]]) -> np.ndarray:
    """How much of every road belongs to the junctions at its start and its end, metres: [roads, 2]."""
    trims = np.zeros((len(pairs), 2))
    for node in range(max(map(max, pairs)) + 1):
        ends = [(road, pair.index(node)) for road, pair in enumerate(pairs) if node in pair]
        lines = [curves[road][::-1] if end else curves[road] for road, end in ends]
        angles = np.sort([np.arctan2(*(line[12] - line[0])[::-1]) for line in lines])
        narrowest = np.diff(angles, append=angles[0] + 2 * np.pi).min()
        half_width = max(sum(lanes[road]) for road, _ in ends) * LANE_WIDTH / 2
        for road, end in ends:
            trims[road, end] = half_width / np.tan(narrowest / 2) + 6.0  # where kerbs would meet, and a corner
    return trims


def _add_crossings(road: Road, rng: np.random.Generator) -> None:
    """Crossings at the ends of a road and, now and then, half-way along it."""
    widths, skews, draws = rng.uniform(3.0, 4.4, 3), rng.uniform(-1.2, 1.2, 3), rng.random(3)
    at_end = 1.4 + (widths + abs(skews)) / 2
    if draws[0] < 0.95:
        road.add_crossing(at_end[0], widths[0], skews[0])
    if draws[1] < 0.6 and not road.median and road.length > 45.0:
        road.add_crossing(road.length / 2, widths[1], skews[1])
    if draws[2] < 0.95:
        road.add_crossing(road.length - at_end[2], widths[2], skews[2])


def _arms(roads: list[Road], node: int) -> list[Arm]:
    """The arms of a junction, counter-clockwise."""
    arms = []
    for number, road in enumerate(roads):
        if node not in (road.start, road.end):
            continue
        starts = road.start == node
        line, section = (road.centre, road.section(0)) if starts else (road.centre[::-1], road.section(-1)[::-1])
        outward = (line[1] - line[0]) / np.hypot(*(line[1] - line[0]))
        forward = [lane.forward for lane in road.lanes]
        entering = [lane for lane, along in enumerate(forward) if along != starts]
        leaving = [lane for lane, along in enumerate(forward) if along == starts]
        arms.append(Arm(number, section, outward, entering, leaving))
    return sorted(arms, key=lambda arm: np.arctan2(arm.outward[1], arm.outward[0]))


def _outline(arms: list[Arm]) -> np.ndarray:
    """A ring through the arms' cross sections, with rounded corners between them: [n, 2]."""
    parts = []
    for arm, following in zip(arms, arms[1:] + arms[:1]):
        corner = geometry.turn(arm.section[-1], -arm.outward, following.section[0], following.outward, 11)
        parts += [arm.section, corner[1:-1]]
    return np.concatenate(parts)


def _connectors(roads: list[Road], arms: list[Arm]) -> list[Connector]:
    """From every lane that enters the junction to one lane of every other arm that can be left through."""
    found = []
    for arm in arms:
        for other in arms:
            if other.road == arm.road or not other.leaving:
                continue
            for index, entering in enumerate(arm.entering):
                leaving = other.leaving[min(index, len(other.leaving) - 1)]
                start, end = roads[arm.road].lanes[entering].centre, roads[other.road].lanes[leaving].centre
                line = geometry.turn(start[-1], -arm.outward, end[0], other.outward, 14)
                found.append(Connector((arm.road, entering), (other.road, leaving), line))
    return found
