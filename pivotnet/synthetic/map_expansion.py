"""The two maps of a town: its map expansion of version 1.3 (JSON) and its semantic prior (PNG)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import shapely

from pivotnet.synthetic.nuscenes_tables import token
from pivotnet.synthetic.town import Town

LAYERS = (
    *("polygon", "line", "node", "drivable_area", "road_segment", "road_block", "lane", "ped_crossing", "walkway"),
    *("stop_line", "carpark_area", "lane_connector", "road_divider", "lane_divider", "traffic_light"),
)
PRIOR_RESOLUTION = 0.1  # metres a pixel, as the devkit takes it to be


def semantic_prior(town: Town) -> bytes:
    """PNG file: 255 on roads, 0 elsewhere; row 0 is the northern edge."""
    size = int(round(town.extent / PRIOR_RESOLUTION))
    mask = np.zeros((size, size), np.uint8)
    for part in shapely.get_parts(town.paved()):
        rings = [shapely.get_coordinates(ring) for ring in shapely.get_rings(part)]
        pixels = [np.stack([ring[:, 0], town.extent - ring[:, 1]], axis=1) / PRIOR_RESOLUTION for ring in rings]
        cv2.fillPoly(mask, [np.round(ring).astype(np.int32) for ring in pixels], 255)
    return cv2.imencode(".png", mask)[1].tobytes()


class _Expansion:
    """Collects records; equal coordinates share one node."""

    def __init__(self, town: Town, seed: int) -> None:
        self._scope = seed, "map", town.location
        self._nodes: dict[tuple[float, float], str] = {}
        self.layers: dict[str, list[dict[str, Any]]] = {layer: [] for layer in LAYERS}

    def add(self, layer: str, **fields: Any) -> str:
        """Append a record; returns its token."""
        name = token(*self._scope, layer, len(self.layers[layer]))
        self.layers[layer].append({"token": name, **fields})
        return name

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

    def polygon(self, ring: np.ndarray, hole: np.ndarray | None = None) -> str:
        """A polygon record; rings are not closed."""
        holes = [] if hole is None else [{"node_tokens": self.nodes(hole)}]
        return self.add("polygon", exterior_node_tokens=self.nodes(ring), holes=holes)

    def marks(self, line: np.ndarray) -> list[dict[str, str]]:
        """A dashed line's segments."""
        return [{"node_token": token, "segment_type": "SINGLE_DASHED_WHITE"} for token in self.nodes(line)]


def build_expansion(town: Town, seed: int) -> dict[str, Any]:
    """The content of the JSON file. Layers of what a town does not have, and the graph of its lanes, are empty."""
    expansion = _Expansion(town, seed)
    segments = []
    for ring, hole, is_intersection in town.segments:
        polygon = expansion.polygon(ring, hole)
        area = expansion.add("drivable_area", polygon_tokens=[polygon])
        fields = {"polygon_token": polygon, "is_intersection": is_intersection, "drivable_area_token": area}
        segments.append(expansion.add("road_segment", **fields))
    for road, segment in zip(town.roads, segments):
        for divider in road.dividers:
            line = expansion.line(divider.line)
            if divider.layer == "road_divider":
                expansion.add("road_divider", line_token=line, road_segment_token=segment)
            else:
                expansion.add("lane_divider", line_token=line, lane_divider_segments=expansion.marks(divider.line))
        for crossing in road.crossings:
            polygon = expansion.polygon(crossing.corners)
            expansion.add("ped_crossing", polygon_token=polygon, road_segment_token=segment)
        for lane in road.lanes:
            expansion.add(
                "lane",
                polygon_token=expansion.polygon(np.concatenate([lane.right, lane.left[::-1]])),
                lane_type="CAR",
                from_edge_line_token=expansion.line(np.stack([lane.right[0], lane.left[0]])),
                to_edge_line_token=expansion.line(np.stack([lane.right[-1], lane.left[-1]])),
                left_lane_divider_segments=expansion.marks(lane.left),
                right_lane_divider_segments=expansion.marks(lane.right),
            )
    return {
        **expansion.layers,
        "arcline_path_3": {},
        "connectivity": {},
        "canvas_edge": [town.extent, town.extent],
        "version": "1.3",
    }
