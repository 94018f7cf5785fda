"""A road between two junctions: its lanes, its median island, its crossings and its dividers.

Everything is cut at the same cross sections, so that neighbours share their vertices exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pivotnet.synthetic import geometry

SECTION_STEP = 1.5  # metres between the cross sections of a road
LANE_WIDTH = 3.5
MEDIAN_WIDTH = 1.8  # of the island between the two directions
MEDIAN_MARGIN = 10  # cross sections without island at either end of a road
SHORTEST_DIVIDER = 3.0  # metres
CROSSING_MARGIN = 1.5  # metres without divider on both sides of a crossing


@dataclass
class Crossing:
    """A pedestrian crossing over the whole road; its two long sides join corners 0-1 and 2-3."""

    corners: np.ndarray  # [4, 2]
    span: tuple[float, float]  # between these distances along the road no divider is painted


@dataclass
class Divider:
    """A painted line between lanes."""

    layer: str  # of the map expansion: road_divider (between the directions) or lane_divider
    line: np.ndarray  # [n, 2]


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
    median: bool  # whether there is an island between the directions
    crossings: list[Crossing] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.lengths = geometry.lengths_along(self.centre)  # [n]
        self.median = self.median and self.backward > 0 and len(self.centre) >= 3 * MEDIAN_MARGIN
        count = self.forward + self.backward
        # lanes right of the border between the directions
        self.right_lanes = count if not self.backward else self.forward if self.drive_right else self.backward
        edges = (np.arange(count + 1) - count / 2) * LANE_WIDTH  # to the left of the centre line
        offsets = np.repeat(np.stack([edges[:-1], edges[1:]], axis=1)[..., None], len(self.centre), axis=2)
        if self.median:
            section = np.arange(len(self.centre))
            from_tip = np.minimum(section, section[::-1]) - MEDIAN_MARGIN
            opening = MEDIAN_WIDTH / 2 * (from_tip / 5).clip(0, 1)
            offsets[: self.right_lanes] -= opening
            offsets[self.right_lanes :] += opening
        #: right and left side of every lane, from start to end: [lanes, 2, n, 2]
        self.sides = self.centre + offsets[..., None] * geometry.left_normals(self.centre)

    @property
    def length(self) -> float:
        """Metres along the centre line."""
        return float(self.lengths[-1])

    def section(self, index: int) -> np.ndarray:
        """Where the lanes' sides meet the first (0) or last (-1) cross section, from right to left: [lanes + 1, 2]."""
        return np.concatenate([self.sides[:, 0, index], self.sides[-1:, 1, index]])

    @property
    def ring(self) -> np.ndarray:
        """Outline of the road, counter-clockwise, not closed: [m, 2]."""
        right, left = self.sides[0, 0], self.sides[-1, 1]
        return np.concatenate([right, self.section(-1)[1:], left[-2::-1], self.section(0)[-2:0:-1]])

    @property
    def island(self) -> np.ndarray | None:
        """Outline of the median island, not closed: [m, 2]."""
        if not self.median:
            return None
        part = slice(MEDIAN_MARGIN, len(self.centre) - MEDIAN_MARGIN)
        right, left = self.sides[self.right_lanes - 1, 1, part], self.sides[self.right_lanes, 0, part]
        return np.concatenate([right, left[-2:0:-1]])

    @property
    def lanes(self) -> list[Lane]:
        """All lanes, from right to left."""
        lanes = []
        for number, (right, left) in enumerate(self.sides):
            forward = not self.backward or (number < self.right_lanes) == self.drive_right
            lanes.append(Lane(left, right, True) if forward else Lane(right[::-1], left[::-1], False))
        return lanes

    def add_crossing(self, distance: float, width: float, skew: float) -> None:
        """A crossing centred ``distance`` along the road; its left side lies ``skew`` metres further than its right."""
        ends = np.array([-width / 2, width / 2])
        right = geometry.at_lengths(self.sides[0, 0], distance - skew / 2 + ends, self.lengths)
        left = geometry.at_lengths(self.sides[-1, 1], distance + skew / 2 + ends, self.lengths)
        reach = (width + abs(skew)) / 2 + CROSSING_MARGIN
        corners = np.stack([right[0], left[0], left[1], right[1]])
        self.crossings.append(Crossing(corners, (distance - reach, distance + reach)))

    @property
    def dividers(self) -> list[Divider]:
        """The painted lines, interrupted at the crossings and, between the directions, at the island."""
        crossed = [crossing.span for crossing in self.crossings]
        island = [(self.lengths[MEDIAN_MARGIN], self.lengths[-1 - MEDIAN_MARGIN])] if self.median else []
        found = []
        for number in range(1, len(self.sides)):
            between = number == self.right_lanes
            for start, end in self._free(crossed + island if between else crossed):
                inside = self.lengths[(self.lengths > start) & (self.lengths < end)]
                line = geometry.at_lengths(self.sides[number, 0], np.array([start, *inside, end]), self.lengths)
                found.append(Divider("road_divider" if between else "lane_divider", line))
        return found

    def _free(self, gaps: list[tuple[float, float]]) -> list[tuple[float, float]]:
        """The stretches of the road outside all gaps."""
        free = []
        position = 0.0
        for start, end in [*sorted(gaps), (self.length, self.length)]:
            if start - position > SHORTEST_DIVIDER:
                free.append((position, start))
            position = max(position, end)
        return free
