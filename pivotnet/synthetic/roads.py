"""A road between two junctions: its lanes, its median island, its crossings and its dividers.

Offsets across a road are metres to the left of its centre line, which runs from junction ``start`` to junction ``end``.
Everything along it is cut at stations, so that neighbouring pieces share their vertices exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

import numpy as np

from pivotnet.synthetic import geometry

STATION_STEP = 2.0  # metres between the cross sections of a road
PIECE_STATIONS = 20  # cross sections a road segment polygon spans
ISLAND_MARGIN = 8  # cross sections without island at either end of a road
SHORTEST_DIVIDER = 3.0  # metres


@dataclass(frozen=True)
class Profile:
    """What a road looks like across."""

    forward: int  # lanes from start to end
    backward: int  # lanes from end to start; 0 on a one-way road
    lane_width: float
    parking: float  # width of the parking strip on both sides, 0 without
    median: float  # half the width of the island between the directions, 0 without

    @property
    def lanes(self) -> int:
        """Lanes of both directions."""
        return self.forward + self.backward

    @property
    def half_width(self) -> float:
        """From the middle to the kerb, metres."""
        return self.lanes * self.lane_width / 2 + self.parking + self.median


@dataclass
class Crossing:
    """A pedestrian crossing over the whole road; its two long sides join corners 0-1 and 2-3."""

    corners: np.ndarray  # [4, 2]
    span: tuple[float, float]  # between these distances along the road no divider is painted
    style: str  # zebra | ladder | lines


@dataclass
class Divider:
    """A painted line between lanes; ``kind`` is road_divider (between directions) or lane_divider."""

    kind: str
    line: np.ndarray  # [n, 2]


@dataclass
class Lane:
    """One piece of a lane, its sides in driving direction."""

    left: np.ndarray  # [n, 2]
    right: np.ndarray  # [n, 2]
    number: int  # across the road, from the right kerb of the centre line's direction
    piece: int  # along the road
    forward: bool  # driven from start to end

    @property
    def centre(self) -> np.ndarray:
        """The driving line: [n, 2]."""
        return (self.left + self.right) / 2


@dataclass
class Piece:
    """One road segment polygon: a ring, and the ring of the median island in it."""

    ring: np.ndarray  # [n, 2], counter-clockwise, not closed
    hole: Optional[np.ndarray]  # [m, 2]
    stations: tuple[int, int]  # first and last


@dataclass
class Road:
    """A built road. ``borders[b]`` are the lines between its strips, from the right kerb to the left one.

    On a two-way road the border between the directions is there twice; the two part along the median island.
    """

    start: int
    end: int
    profile: Profile
    drive_right: bool
    centre: np.ndarray  # [n, 2], one vertex a station
    island: Optional[tuple[int, int]] = field(init=False, default=None)  # first and last station of the median island
    crossings: list[Crossing] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.lengths = geometry.arc_lengths(self.centre)  # [n]
        if self.profile.median and len(self.centre) >= 3 * ISLAND_MARGIN:
            self.island = (ISLAND_MARGIN, len(self.centre) - 1 - ISLAND_MARGIN)
        normals = geometry.left_normals(self.centre)
        self.borders = self.centre + self._offsets()[:, :, None] * normals  # [borders, n, 2]

    @property
    def length(self) -> float:
        """Metres along the centre line."""
        return float(self.lengths[-1])

    @property
    def right_lanes(self) -> int:
        """Lanes to the right of the border between the directions (all of them on a one-way road)."""
        if not self.profile.backward:
            return self.profile.forward
        return self.profile.forward if self.drive_right else self.profile.backward

    @property
    def middle(self) -> Optional[int]:
        """Index of the right one of the two borders between the directions; None on a one-way road."""
        return (1 if self.profile.parking else 0) + self.right_lanes if self.profile.backward else None

    def _offsets(self) -> np.ndarray:
        """Offset of every border at every station: [borders, n]."""
        profile = self.profile
        stations = np.arange(len(self.centre))
        opening = np.zeros(len(stations))
        if self.island is not None:
            from_tip = np.minimum(stations - self.island[0], self.island[1] - stations)
            opening = profile.median * np.array([0.0, 0.8, 1.0])[from_tip.clip(0, 2)]
        rows = []
        offset = -profile.half_width
        if profile.parking:
            rows.append(np.full(len(stations), offset))
            offset += profile.parking
        for lane in range(profile.lanes + 1):
            if profile.backward and lane == self.right_lanes:
                rows += [offset + profile.median - opening, offset + profile.median + opening]
                offset += 2 * profile.median
            else:
                rows.append(np.full(len(stations), offset))
            offset += profile.lane_width
        if profile.parking:
            rows.append(np.full(len(stations), profile.half_width))
        return np.stack(rows)

    def along(self, border: int, start: float, end: float) -> np.ndarray:
        """A border between two distances along the road, with the stations in between: [m, 2]."""
        inside = self.lengths[(self.lengths > start + 1e-3) & (self.lengths < end - 1e-3)]
        distances = np.concatenate([[start], inside, [end]])
        return np.stack([np.interp(distances, self.lengths, self.borders[border, :, axis]) for axis in (0, 1)], axis=1)

    def pieces(self) -> list[Piece]:
        """The road segment polygons, from start to end; neighbours share the vertices of a cross section."""
        last = len(self.centre) - 1
        breaks = [0, *range(PIECE_STATIONS, last - 4, PIECE_STATIONS), last]
        if self.island is not None:
            breaks = [b for b in breaks if not self.island[0] <= b <= self.island[1]]
        pieces = []
        for i, j in zip(breaks[:-1], breaks[1:]):
            ring = np.concatenate(
                [self.borders[0, i:j], self.borders[:-1, j], self.borders[-1, j:i:-1], self.borders[:0:-1, i]]
            )
            hole = None
            if self.island is not None and i < self.island[0] < j:
                assert self.middle is not None
                first, final = self.island
                right, left = self.borders[self.middle], self.borders[self.middle + 1]
                hole = np.concatenate([right[first : final + 1], left[final - 1 : first : -1]])
            pieces.append(Piece(without_repeats(ring), hole, (i, j)))
        return pieces

    def lane_borders(self) -> list[tuple[int, int]]:
        """Right and left border (of the centre line's direction) of every lane, from the right kerb on."""
        first = 1 if self.profile.parking else 0
        count = len(self.borders) - 1 - 2 * first
        return [(first + b, first + b + 1) for b in range(count) if first + b != self.middle]

    def is_forward(self, lane: int) -> bool:
        """Whether the lane (counted from the right kerb) is driven from start to end."""
        return not self.profile.backward or (lane < self.right_lanes) == self.drive_right

    def lanes(self) -> list[Lane]:
        """Every lane, cut into the same pieces as the road."""
        lanes = []
        for number, (right, left) in enumerate(self.lane_borders()):
            forward = self.is_forward(number)
            for index, piece in enumerate(self.pieces()):
                part = slice(piece.stations[0], piece.stations[1] + 1)
                sides = self.borders[left, part], self.borders[right, part]
                if not forward:
                    sides = sides[1][::-1], sides[0][::-1]
                lanes.append(Lane(*sides, number=number, piece=index, forward=forward))
        return lanes

    def add_crossing(self, distance: float, width: float, skew: float, style: str) -> None:
        """A crossing centred ``distance`` along the road; its left side lies ``skew`` metres further than its right."""
        reach = width / 2 + abs(skew) / 2
        if distance - reach < 0.5 or distance + reach > self.length - 0.5:
            return
        at = [distance - width / 2, distance + width / 2]
        right = self.along(0, at[0] - skew / 2, at[1] - skew / 2)[[0, -1]]
        left = self.along(len(self.borders) - 1, at[0] + skew / 2, at[1] + skew / 2)[[0, -1]]
        corners = np.stack([right[0], left[0], left[1], right[1]])
        self.crossings.append(Crossing(corners, (distance - reach - 1.5, distance + reach + 1.5), style))

    def dividers(self) -> list[Divider]:
        """The painted lines, interrupted at the crossings and, between the directions, at the island."""
        gaps = [crossing.span for crossing in self.crossings]
        found = []
        first = 1 if self.profile.parking else 0
        for border in range(first + 1, len(self.borders) - 1 - first):
            if self.middle is not None and border == self.middle + 1:
                continue
            own_gaps = list(gaps)
            if border == self.middle and self.island is not None:
                own_gaps.append((self.lengths[self.island[0]], self.lengths[self.island[1]]))
            kind = "road_divider" if border == self.middle else "lane_divider"
            for start, end in self._free(own_gaps):
                found.append(Divider(kind, self.along(border, start, end)))
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


def without_repeats(ring: np.ndarray) -> np.ndarray:
    """The ring without vertices that repeat their predecessor: [n, 2] -> [m, 2]."""
    return ring[np.any(ring != np.roll(ring, 1, axis=0), axis=1)]
