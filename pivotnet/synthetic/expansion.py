"""A town as a map expansion file of version 1.3 (maps/expansion/LOCATION.json)."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import shapely
from shapely.geometry import LineString

from pivotnet.synthetic.roads import Lane
from pivotnet.synthetic.tokens import Tokens
from pivotnet.synthetic.town import Town

VERSION = "1.3"
LAYERS = (
    "polygon",
    "line",
    "node",
    "drivable_area",
    "road_segment",
    "road_block",
    "lane",
    "ped_crossing",
    "walkway",
    "stop_line",
    "carpark_area",
    "lane_connector",
    "road_divider",
    "lane_divider",
    "traffic_light",
)
LIGHT_COLOURS = ("RED", "YELLOW", "GREEN")


class _Builder:
    """Collects records; equal coordinates share one node."""

    def __init__(self, town: Town, seed: int) -> None:
        self.town = town
        self.tokens = Tokens(seed, "map", town.location)
        self.layers: dict[str, list[dict[str, Any]]] = {layer: [] for layer in LAYERS}
        self.arclines: dict[str, list[dict[str, Any]]] = {}
        self.connectivity: dict[str, dict[str, list[str]]] = {}
        self._nodes: dict[tuple[float, float], str] = {}

    def add(self, layer: str, **fields: Any) -> str:
        """Append a record with a fresh token; returns the token."""
        token = self.tokens.uuid(layer, len(self.layers[layer]))
        self.layers[layer].append({"token": token, **fields})
        return token

    def nodes(self, points: np.ndarray) -> list[str]:
        """Node tokens of these points: [n, 2] -> n tokens."""
        found = []
        for x, y in points.tolist():
            if (x, y) not in self._nodes:
                self._nodes[x, y] = self.add("node", x=x, y=y)
            found.append(self._nodes[x, y])
        return found

    def line(self, points: np.ndarray) -> str:
        """A line record."""
        return self.add("line", node_tokens=self.nodes(points))

    def polygon(self, ring: np.ndarray, holes: Optional[list[np.ndarray]] = None) -> str:
        """A polygon record; rings are not closed."""
        return self.add(
            "polygon",
            exterior_node_tokens=self.nodes(ring),
            holes=[{"node_tokens": self.nodes(hole)} for hole in holes or []],
        )

    def arcline_path(self, line: np.ndarray) -> list[dict[str, Any]]:
        """A driving line as a chain of arcline paths, every one of them straight."""
        points = np.array(LineString(line).simplify(0.05).coords)
        steps = np.diff(points, axis=0)
        path = []
        for (x0, y0), (x1, y1), (dx, dy) in zip(points[:-1].tolist(), points[1:].tolist(), steps.tolist()):
            yaw = float(np.arctan2(dy, dx))
            path.append(
                {
                    "start_pose": [x0, y0, yaw],
                    "end_pose": [x1, y1, yaw],
                    "shape": "LSR",
                    "radius": 999.999,
                    "segment_length": [0.0, float(np.hypot(dx, dy)), 0.0],
                }
            )
        return path


def build_expansion(town: Town, seed: int) -> dict[str, Any]:
    """The content of the JSON file."""
    builder = _Builder(town, seed)
    segments, blocks = _road_segments(builder)
    _dividers(builder, segments)
    crossings = _crossings(builder, segments)
    ends = _lanes(builder)
    _connectors(builder, ends)
    lights = _traffic_lights(builder, blocks)
    _stop_lines(builder, crossings, lights, blocks)
    for part in shapely.get_parts(town.walkways):
        rings = [np.array(ring.coords)[:-1] for ring in (part.exterior, *part.interiors)]
        builder.add("walkway", polygon_token=builder.polygon(rings[0], rings[1:]))
    some_block = next(iter(blocks.values()))
    builder.add("carpark_area", polygon_token=builder.polygon(town.yard), orientation=0.0, road_block_token=some_block)
    return {
        **builder.layers,
        "arcline_path_3": builder.arclines,
        "connectivity": builder.connectivity,
        "canvas_edge": list(town.layout.size),
        "version": VERSION,
    }


def _road_segments(builder: _Builder) -> tuple[dict[tuple[int, int], str], dict[tuple[int, int, bool], str]]:
    """Road segments of roads (tokens by road and piece) and junctions, with their drivable areas and road blocks."""
    segments, blocks = {}, {}
    for number, road in enumerate(builder.town.layout.roads):
        for index, piece in enumerate(road.pieces()):
            polygon = builder.polygon(piece.ring, None if piece.hole is None else [piece.hole])
            segments[number, index] = _segment(builder, polygon, is_intersection=False)
            i, j = piece.stations
            middle = len(road.borders) - 1 if road.middle is None else road.middle
            sides = [(0, middle, road.is_forward(0))]
            if road.middle is not None:
                sides.append((road.middle + 1, len(road.borders) - 1, not road.is_forward(0)))
            for right, left, forward in sides:
                ring = np.concatenate([road.borders[right, i : j + 1], road.borders[left, i : j + 1][::-1]])
                start, end = (
                    builder.line(road.borders[right : left + 1, i]),
                    builder.line(road.borders[right : left + 1, j]),
                )
                blocks[number, index, forward] = builder.add(
                    "road_block",
                    polygon_token=builder.polygon(ring),
                    from_edge_line_token=start if forward else end,
                    to_edge_line_token=end if forward else start,
                    road_segment_token=segments[number, index],
                )
    for junction in builder.town.junctions:
        polygon = builder.polygon(junction.ring, None if junction.hole is None else [junction.hole])
        _segment(builder, polygon, is_intersection=True)
    return segments, blocks


def _segment(builder: _Builder, polygon: str, is_intersection: bool) -> str:
    area = builder.add("drivable_area", polygon_tokens=[polygon])
    return builder.add("road_segment", polygon_token=polygon, is_intersection=is_intersection, drivable_area_token=area)


def _dividers(builder: _Builder, segments: dict[tuple[int, int], str]) -> None:
    for number, road in enumerate(builder.town.layout.roads):
        for divider in road.dividers():
            line = builder.line(divider.line)
            if divider.kind == "road_divider":
                builder.add("road_divider", line_token=line, road_segment_token=segments[number, 0])
            else:
                builder.add(
                    "lane_divider",
                    line_token=line,
                    lane_divider_segments=_painted(builder, divider.line, "SINGLE_DASHED_WHITE"),
                )


def _painted(builder: _Builder, line: np.ndarray, kind: str) -> list[dict[str, str]]:
    return [{"node_token": token, "segment_type": kind} for token in builder.nodes(line)]


def _crossings(builder: _Builder, segments: dict[tuple[int, int], str]) -> list[tuple[int, int, str]]:
    """Crossings; returns (road, number on the road, token)."""
    found = []
    for number, road in enumerate(builder.town.layout.roads):
        for index, crossing in enumerate(road.crossings):
            token = builder.add(
                "ped_crossing",
                polygon_token=builder.polygon(crossing.corners),
                road_segment_token=segments[number, 0],
            )
            found.append((number, index, token))
    return found


def _lanes(builder: _Builder) -> dict[tuple[int, int], tuple[str, str]]:
    """Lanes with their driving lines; returns the first and last token, in driving direction, by road and lane."""
    ends = {}
    for number, lanes in builder.town.lanes.items():
        chains: dict[int, list[tuple[Lane, str]]] = {}
        for lane in lanes:
            token = builder.add(
                "lane",
                polygon_token=builder.polygon(np.concatenate([lane.right, lane.left[::-1]])),
                lane_type="CAR",
                from_edge_line_token=builder.line(np.stack([lane.right[0], lane.left[0]])),
                to_edge_line_token=builder.line(np.stack([lane.right[-1], lane.left[-1]])),
                left_lane_divider_segments=_painted(builder, lane.left, "SINGLE_DASHED_WHITE"),
                right_lane_divider_segments=_painted(builder, lane.right, "SINGLE_DASHED_WHITE"),
            )
            builder.arclines[token] = builder.arcline_path(lane.centre)
            builder.connectivity[token] = {"incoming": [], "outgoing": []}
            chains.setdefault(lane.number, []).append((lane, token))
        for lane_number, chain in chains.items():
            ordered = [token for _, token in (chain if chain[0][0].forward else chain[::-1])]
            for before, after in zip(ordered[:-1], ordered[1:]):
                _join(builder, before, after)
            ends[number, lane_number] = ordered[0], ordered[-1]
    return ends


def _join(builder: _Builder, before: str, after: str) -> None:
    builder.connectivity[before]["outgoing"].append(after)
    builder.connectivity[after]["incoming"].append(before)


def _connectors(builder: _Builder, ends: dict[tuple[int, int], tuple[str, str]]) -> None:
    for connector in builder.town.connectors:
        width = builder.town.layout.roads[connector.entering[0]].profile.lane_width
        area = LineString(connector.line).buffer(width / 2, cap_style="flat", join_style="mitre")
        token = builder.add("lane_connector", polygon_token=builder.polygon(np.array(area.exterior.coords)[:-1]))
        builder.arclines[token] = builder.arcline_path(connector.line)
        builder.connectivity[token] = {"incoming": [], "outgoing": []}
        _join(builder, ends[connector.entering][1], token)
        _join(builder, token, ends[connector.leaving][0])


def _traffic_lights(builder: _Builder, blocks: dict[tuple[int, int, bool], str]) -> dict[tuple[int, bool], str]:
    """Lights beside the arms that have one; returns tokens by (road, leaves)."""
    found = {}
    for number, leaves in builder.town.lights:
        road = builder.town.layout.roads[number]
        end = 0 if leaves else -1
        kerb = road.borders[0, end] if leaves != builder.town.drive_right else road.borders[-1, end]
        outward = kerb - road.centre[end]
        foot = kerb + outward / np.hypot(*outward)
        dx, dy = road.centre[1] - road.centre[0] if leaves else road.centre[-2] - road.centre[-1]
        items = [
            {
                "color": colour,
                "shape": "CIRCLE",
                "rel_pos": {"tx": 0.0, "ty": 0.0, "tz": -0.3 * place, "rx": 0.0, "ry": 0.0, "rz": 0.0},
                "to_road_block_tokens": [],
            }
            for place, colour in enumerate(LIGHT_COLOURS)
        ]
        found[number, leaves] = builder.add(
            "traffic_light",
            line_token=builder.line(np.stack([foot, foot + 0.3 * outward / np.hypot(*outward)])),
            traffic_light_type="VERTICAL",
            from_road_block_token=_end_block(builder, blocks, number, leaves),
            items=items,
            pose={
                "tx": float(foot[0]),
                "ty": float(foot[1]),
                "tz": 3.2,
                "rx": 0.0,
                "ry": 0.0,
                "rz": float(np.arctan2(dy, dx)),
            },
        )
    return found


def _end_block(builder: _Builder, blocks: dict[tuple[int, int, bool], str], road: int, leaves: bool) -> str:
    """The road block from which the junction at the start (leaves) or at the end of a road is entered."""
    last = len(builder.town.layout.roads[road].pieces()) - 1
    return blocks[road, 0 if leaves else last, not leaves]


def _stop_lines(
    builder: _Builder,
    crossings: list[tuple[int, int, str]],
    lights: dict[tuple[int, bool], str],
    blocks: dict[tuple[int, int, bool], str],
) -> None:
    """A stop line before every crossing, and one before every traffic light."""
    for number, index, token in crossings:
        corners = builder.town.layout.roads[number].crossings[index].corners
        away = corners[0] - corners[3]
        away = away / np.hypot(*away)
        near, far = corners[:2] + 0.5 * away, corners[:2] + 0.9 * away
        ring = np.concatenate([near, far[::-1]])
        builder.add(
            "stop_line",
            polygon_token=builder.polygon(ring),
            stop_line_type="PED_CROSSING",
            ped_crossing_tokens=[token],
            traffic_light_tokens=[],
            road_block_token=None,
        )
    for (number, leaves), token in lights.items():
        road = builder.town.layout.roads[number]
        at = (0.2, 0.6) if leaves else (road.length - 0.6, road.length - 0.2)
        right, left = road.along(0, *at)[[0, -1]], road.along(len(road.borders) - 1, *at)[[0, -1]]
        builder.add(
            "stop_line",
            polygon_token=builder.polygon(np.concatenate([right, left[::-1]])),
            stop_line_type="TRAFFIC_LIGHT",
            ped_crossing_tokens=[],
            traffic_light_tokens=[token],
            road_block_token=_end_block(builder, blocks, number, leaves),
        )
