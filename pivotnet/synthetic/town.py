"""A town: roads and junctions of one location, as polylines [n, 2] in the map's frame (metres). Junctions stand on a
shaken grid; some inner roads are left out, so that junctions have two, three or four arms. Everything of a road is cut
at the same cross sections, so that neighbours share their vertices exactly."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import shapely
from shapely.geometry import Polygon

LOCATIONS = ("singapore-onenorth", "singapore-hollandvillage", "singapore-queenstown", "boston-seaport")
BLOCK = 96.0  # metres between the junctions of the grid
SHAKE = 9.0  # largest displacement of a junction from its place on the grid, metres
BEND = 0.32  # largest turn of a road where it leaves a junction, radians
STRAIGHT_SHARE = 0.3  # of the roads
OMITTED_SHARE = 0.25  # of the roads between two junctions of four arms
LANES = ((1, 1), (1, 1), (2, 1), (1, 2), (2, 2), (2, 0), (3, 0))  # forward and backward, drawn with equal probability
MARGIN = 100.0  # metres of open land round the grid
SECTION_STEP = 1.5  # metres between the cross sections of a road
LANE_WIDTH = 3.5
SHORTEST_DIVIDER = 3.0  # metres
CROSSING_MARGIN = 1.5  # metres without divider on both sides of a crossing


def turn(start: np.ndarray, departure: np.ndarray, end: np.ndarray, arrival: np.ndarray, count: int) -> np.ndarray:
    """A smooth curve from ``start`` to ``end`` (a cubic Bezier curve), both included: [count, 2]. ``departure`` and
    ``arrival`` are unit vectors [2], the directions of travel at the two ends."""
    reach = 0.38 * np.hypot(*(end - start))
    t = np.linspace(0.0, 1.0, count)[:, None]
    first, second = start + reach * departure, end - reach * arrival
    return (1 - t) ** 3 * start + 3 * (1 - t) ** 2 * t * first + 3 * (1 - t) * t**2 * second + t**3 * end


def lengths_along(line: np.ndarray) -> np.ndarray:
    """Distance of every vertex from the start, along the line: [n, 2] -> [n]."""
    return np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])


def at_lengths(line: np.ndarray, distances: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
    """Points at these distances along the line, clamped to its ends: [n, 2], [m] -> [m, 2]. ``lengths`` [n] are the
    distances of the line's own vertices, if they are to be measured along another line."""
    lengths = lengths_along(line) if lengths is None else lengths
    return np.stack([np.interp(distances, lengths, line[:, axis]) for axis in (0, 1)], axis=1)


def resample(line: np.ndarray, start: float, end: float, step: float) -> np.ndarray:
    """The line between two distances along it, with a vertex about every ``step``: [n, 2] -> [m, 2]."""
    return at_lengths(line, np.linspace(start, end, max(2, int(round((end - start) / step)) + 1)))


def left_normals(line: np.ndarray) -> np.ndarray:
    """Unit vector to the left of the direction of travel at every vertex: [n, 2] -> [n, 2]."""
    dx, dy = np.gradient(line, axis=0).T
    return np.stack([-dy, dx], axis=1) / np.hypot(dx, dy)[:, None]


@dataclass
class Crossing:
    """A pedestrian crossing over the whole road; its two long sides join corners 0-1 and 2-3."""

    corners: np.ndarray  # [4, 2]
    span: tuple[float, float]  # between these distances along the road no divider is painted


@dataclass
class Lane:
    """One lane, its sides in driving direction."""

    left: np.ndarray  # [n, 2]
    right: np.ndarray  # [n, 2]
    forward: bool  # driven from the start of the road to its end

    @property
    def centre(self) -> np.ndarray:
        """The driving line: [n, 2]."""
        return (self.left + self.right) / 2


@dataclass
class Road:
    """A road from junction ``start`` to junction ``end``; its lanes are counted from the right kerb."""

    start: int
    end: int
    centre: np.ndarray  # [n, 2], a vertex a cross section
    forward: int  # lanes from start to end
    backward: int  # lanes from end to start; 0 on a one-way road
    drive_right: bool
    crossings: list[Crossing] = field(init=False, default_factory=list)  # along the road

    def __post_init__(self) -> None:
        self.lengths = lengths_along(self.centre)  # [n] metres
        self.length = float(self.lengths[-1])
        count = self.forward + self.backward
        # lanes right of the border between the directions
        self.right_lanes = count if not self.backward else self.forward if self.drive_right else self.backward
        offsets = (np.arange(count + 1) - count / 2) * LANE_WIDTH  # to the left of the centre line
        #: sides of the lanes from right to left, each from start to end: [lanes + 1, n, 2]
        self.sides = self.centre + offsets[:, None, None] * left_normals(self.centre)

    @property
    def ring(self) -> np.ndarray:
        """Outline of the road, counter-clockwise, not closed: [m, 2]."""
        return np.concatenate([self.sides[0], self.sides[1:, -1], self.sides[-1, -2::-1], self.sides[-2:0:-1, 0]])

    @property
    def lanes(self) -> list[Lane]:
        lanes = []
        for number, (right, left) in enumerate(zip(self.sides, self.sides[1:])):
            forward = not self.backward or (number < self.right_lanes) == self.drive_right
            lanes.append(Lane(left, right, True) if forward else Lane(right[::-1], left[::-1], False))
        return lanes

    def add_crossing(self, distance: float, width: float, skew: float) -> None:
        """A crossing centred ``distance`` along the road; its left side lies ``skew`` metres further than its right."""
        ends = np.array([-width / 2, width / 2])
        right = at_lengths(self.sides[0], distance - skew / 2 + ends, self.lengths)
        left = at_lengths(self.sides[-1], distance + skew / 2 + ends, self.lengths)
        reach = (width + abs(skew)) / 2 + CROSSING_MARGIN
        corners = np.stack([right[0], left[0], left[1], right[1]])
        self.crossings.append(Crossing(corners, (distance - reach, distance + reach)))

    @property
    def dividers(self) -> list[tuple[str, np.ndarray]]:
        """The painted lines [n, 2], interrupted at the crossings; before each its layer in the map expansion:
        road_divider (between the directions) or lane_divider."""
        stretches = []  # distances of their vertices
        start = 0.0
        for end, behind in [*(crossing.span for crossing in self.crossings), (self.length, self.length)]:
            if end - start > SHORTEST_DIVIDER:
                inside = self.lengths[(self.lengths > start) & (self.lengths < end)]
                stretches.append(np.array([start, *inside, end]))
            start = behind
        return [
            ("road_divider" if number == self.right_lanes else "lane_divider", at_lengths(side, stretch, self.lengths))
            for number, side in enumerate(self.sides[1:-1], start=1)
            for stretch in stretches
        ]


@dataclass
class Arm:
    """The end of a road at a junction, seen from the junction outwards."""

    road: int
    section: np.ndarray  # [k, 2], from the right kerb to the left one
    outward: np.ndarray  # [2], unit vector
    entering: list[int]  # lanes of the road that lead into the junction
    leaving: list[int]


@dataclass
class Town:
    """One location; it lies between (0, 0) and (extent, extent)."""

    location: str
    extent: float
    roads: list[Road]
    junctions: list[np.ndarray]  # outlines, counter-clockwise, not closed: [n, 2]
    #: ways through junctions, by the (road, lane) that they come from: the (road, lane) they lead to, and a line [n, 2]
    connectors: dict[tuple[int, int], list[tuple[tuple[int, int], np.ndarray]]]

    @property
    def drive_right(self) -> bool:
        return self.location.startswith("boston")

    @property
    def segments(self) -> list[tuple[np.ndarray, bool]]:
        """Outline, and whether it is a junction, of every road segment of the map: roads, then junctions."""
        return [*((road.ring, False) for road in self.roads), *((ring, True) for ring in self.junctions)]

    def paved(self) -> shapely.Geometry:
        return shapely.union_all([Polygon(ring) for ring, _ in self.segments])


def build_town(location: str, side: int, rng: np.random.Generator) -> Town:
    """A town of ``side`` x ``side`` junctions; the same generator state gives the same town."""
    town = Town(location, 2 * MARGIN + BLOCK * (side - 1), [], [], {})
    pairs = _pairs(side, rng)
    cells = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), axis=-1).reshape(-1, 2)
    nodes = MARGIN + BLOCK * cells + rng.uniform(-SHAKE, SHAKE, cells.shape)
    curves = [_curve(nodes[a], nodes[b], rng) for a, b in pairs]
    lanes = [LANES[rng.integers(len(LANES))] for _ in pairs]
    trims = _trims(pairs, curves, lanes)
    for (a, b), curve, (forward, backward), (first, last) in zip(pairs, curves, lanes, trims):
        centre = resample(curve, first, lengths_along(curve)[-1] - last, SECTION_STEP)
        road = Road(a, b, centre, forward, backward, town.drive_right)
        _add_crossings(road, rng)
        town.roads.append(road)
    for node in range(len(nodes)):
        arms = _arms(town.roads, node)
        town.junctions.append(_outline(arms))
        _connect(town, arms)
    return town


def _pairs(side: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """The two junctions of every road."""
    number = np.arange(side * side).reshape(side, side)
    neighbours = (number[:-1], number[1:]), (number[:, :-1], number[:, 1:])
    pairs = np.concatenate([np.stack([first.ravel(), second.ravel()], axis=1) for first, second in neighbours])
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
    angles = heading + rng.uniform(-BEND, BEND, 2) * (rng.random() >= STRAIGHT_SHARE)
    departure, arrival = (np.array([np.cos(angle), np.sin(angle)]) for angle in angles)
    return turn(start, departure, end, arrival, 160)


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
    if draws[1] < 0.6 and road.length > 45.0:
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
        line, section = (road.centre, road.sides[:, 0]) if starts else (road.centre[::-1], road.sides[::-1, -1])
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
        parts += [arm.section, turn(arm.section[-1], -arm.outward, following.section[0], following.outward, 11)[1:-1]]
    return np.concatenate(parts)


def _connect(town: Town, arms: list[Arm]) -> None:
    """Add ways from every lane that enters the junction to one lane of every other arm that can be left through."""
    for arm in arms:
        for other in arms:
            if other.road == arm.road or not other.leaving:
                continue
            for index, entering in enumerate(arm.entering):
                leaving = other.leaving[min(index, len(other.leaving) - 1)]
                start, end = town.roads[arm.road].lanes[entering].centre, town.roads[other.road].lanes[leaving].centre
                line = turn(start[-1], -arm.outward, end[0], other.outward, 14)
                town.connectors.setdefault((arm.road, entering), []).append(((other.road, leaving), line))
