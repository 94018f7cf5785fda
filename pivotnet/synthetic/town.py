"""A town: everything on the ground of one location, as plain geometry in the map's frame (metres)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import shapely
from shapely.geometry import Polygon

from pivotnet.synthetic import geometry
from pivotnet.synthetic.junctions import Junction, build, through
from pivotnet.synthetic.layout import MARGIN, Layout, plan
from pivotnet.synthetic.roads import Lane, Road

LOCATIONS = ("singapore-onenorth", "singapore-hollandvillage", "singapore-queenstown", "boston-seaport")
WALKWAY_WIDTH = 3.0  # metres
YARD_SIZE = (112.0, 96.0)  # metres
YARD_DISTANCE = 26.0  # metres south of the southernmost road
DRIVEWAY_WIDTH = 7.0
CROSSING_STYLES = ("zebra", "ladder", "lines")


@dataclass
class Connector:
    """A way through a junction from the end of one lane to the start of another."""

    junction: int
    entering: tuple[int, int]  # road, lane across it
    leaving: tuple[int, int]
    line: np.ndarray  # [n, 2]


@dataclass
class Town:
    """One location. ``yard`` is a paved place that the map does not know: samples there have no map elements."""

    location: str
    layout: Layout
    junctions: list[Junction]
    lanes: dict[int, list[Lane]]  # by road
    connectors: list[Connector]
    paved: shapely.Geometry  # union of all road segments
    walkways: shapely.Geometry
    yard: np.ndarray  # [4, 2]
    driveway: np.ndarray  # [4, 2], joins the yard to a road
    lights: list[tuple[int, bool]] = field(default_factory=list)  # arms (road, leaves) with a traffic light

    @property
    def drive_right(self) -> bool:
        """Whether traffic keeps to the right."""
        return self.location.startswith("boston")

    def lane_at_end(self, road: int, number: int) -> Lane:
        """The last piece, in driving direction, of a lane."""
        own = [lane for lane in self.lanes[road] if lane.number == number]
        return own[-1] if own[0].forward else own[0]

    def lane_at_start(self, road: int, number: int) -> Lane:
        """The first piece, in driving direction, of a lane."""
        own = [lane for lane in self.lanes[road] if lane.number == number]
        return own[0] if own[0].forward else own[-1]


def build_town(location: str, side: int, rng: np.random.Generator) -> Town:
    """A town of ``side`` x ``side`` grid places; the same generator state gives the same town."""
    drive_right = location.startswith("boston")
    layout = plan(side, drive_right, rng)
    for road in layout.roads:
        _add_crossings(road, rng)
    junctions = [build(layout, node) for node in layout.nodes]
    lanes = {number: road.lanes() for number, road in enumerate(layout.roads)}
    rings = [(piece.ring, piece.hole) for road in layout.roads for piece in road.pieces()]
    rings += [(junction.ring, junction.hole) for junction in junctions]
    paved = shapely.union_all([Polygon(ring, [] if hole is None else [hole]) for ring, hole in rings])
    yard, driveway = _yard(layout)
    filled = shapely.union_all([Polygon(part.exterior) for part in shapely.get_parts(paved)])
    outside = paved.buffer(WALKWAY_WIDTH, join_style="round", quad_segs=3).difference(paved)
    islands = filled.difference(paved)
    small = [part for part in shapely.get_parts(islands) if part.area < 400.0]
    walkways = outside.difference(shapely.union_all(small)) if small else outside
    town = Town(location, layout, junctions, lanes, [], paved, walkways, yard, driveway)
    for junction in junctions:
        town.connectors += _connect(town, junction)
        if not junction.ring_radius and rng.random() < 0.5:
            town.lights += [(arm.road, arm.leaves) for arm in junction.arms if _enters(town, arm.road, arm.leaves)]
    return town


def _add_crossings(road: Road, rng: np.random.Generator) -> None:
    """Crossings at the ends of a road and, now and then, half-way along it."""
    style = CROSSING_STYLES[rng.integers(len(CROSSING_STYLES))]
    draws = rng.random(3)
    widths = rng.uniform(3.0, 4.4, 3)
    skews = rng.uniform(-1.2, 1.2, 3)
    if draws[0] < 0.75:
        road.add_crossing(1.4 + widths[0] / 2 + abs(skews[0]) / 2, widths[0], skews[0], style)
    if draws[1] < 0.5 and road.island is None and road.length > 45.0:
        road.add_crossing(road.length * 0.5, widths[1], skews[1], style)
    if draws[2] < 0.75:
        road.add_crossing(road.length - 1.4 - widths[2] / 2 - abs(skews[2]) / 2, widths[2], skews[2], style)


def _enters(town: Town, road: int, leaves: bool) -> list[int]:
    """Lanes of a road that are driven towards the junction at its start (leaves) or at its end."""
    return [n for n in range(town.layout.roads[road].profile.lanes) if town.layout.roads[road].is_forward(n) != leaves]


def _exits(town: Town, road: int, leaves: bool) -> list[int]:
    """Lanes of a road that are driven away from the junction at its start (leaves) or at its end."""
    return [n for n in range(town.layout.roads[road].profile.lanes) if town.layout.roads[road].is_forward(n) == leaves]


def _connect(town: Town, junction: Junction) -> list[Connector]:
    """From every arm to every other one, lane by lane as far as both have lanes."""
    found = []
    for arm in junction.arms:
        for other in junction.arms:
            if other.road == arm.road:
                continue
            pairs = zip(_enters(town, arm.road, arm.leaves), _exits(town, other.road, other.leaves))
            for entering, leaving in pairs:
                first, second = town.lane_at_end(arm.road, entering), town.lane_at_start(other.road, leaving)
                line = through(junction, first, second, town.drive_right)
                found.append(Connector(junction.node, (arm.road, entering), (other.road, leaving), line))
    return found


def _yard(layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """The yard south of the town's southern edge, and the driveway that joins it to the nearest road."""
    south = min(range(len(layout.roads)), key=lambda number: layout.roads[number].centre[:, 1].mean())
    line = layout.roads[south].centre
    lowest = min(float(road.centre[:, 1].min()) for road in layout.roads)
    gate = line[len(line) // 2]
    top = lowest - YARD_DISTANCE
    centre = np.array([np.clip(gate[0], MARGIN, layout.size[0] - MARGIN), top - YARD_SIZE[1] / 2])
    yard = geometry.rectangle(centre, *YARD_SIZE, 0.0)
    middle = np.array([gate[0], (top + gate[1]) / 2])
    return yard, geometry.rectangle(middle, DRIVEWAY_WIDTH, gate[1] - top, 0.0)
