"""The plan of a town: where its junctions are, which roads join them, and how roads trim and bend.

Junctions stand on a shaken grid without its four corners, the streets there bend round; some inner streets are left
out, so that junctions have three or four arms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np

from pivotnet.synthetic import geometry
from pivotnet.synthetic.roads import STATION_STEP, Profile, Road

BLOCK = 104.0  # metres between the junctions of the grid
SHAKE = 9.0  # largest displacement of a junction from its place on the grid, metres
BEND = 0.30  # largest turn of a road where it leaves a junction, radians
ROUNDABOUT_SHARE = 0.3
DIVIDED = Profile(forward=2, backward=2, lane_width=3.3, parking=0.0, median=0.9)  # every town has such a road
MARGIN = 190.0  # metres of open land round the grid


@dataclass
class Node:
    """A junction to be: its place and the radius of its ring road when it is a roundabout (0 otherwise)."""

    position: np.ndarray  # [2]
    ring: float


@dataclass
class Layout:
    """Junctions and built roads; ``arms[n]`` are the roads at junction n as (road, leaves here), by angle."""

    nodes: dict[int, Node]
    roads: list[Road]
    arms: dict[int, list[tuple[int, bool]]]
    size: tuple[float, float]  # extent of the town, metres: it lies between (0, 0) and here


def random_profile(rng: np.random.Generator) -> Profile:
    """A cross section drawn from the kinds found in real towns."""
    width = float(rng.uniform(3.2, 3.6))
    forward, backward = [(1, 1), (1, 1), (2, 1), (1, 2), (2, 2), (2, 0), (3, 0)][rng.integers(7)]
    lanes = forward + backward
    parking = 2.2 if lanes <= 2 and rng.random() < 0.5 else 0.0
    median = float(rng.uniform(0.7, 1.1)) if backward and lanes >= 3 and rng.random() < 0.6 else 0.0
    return Profile(forward, backward, width, parking, median)


def plan(side: int, drive_right: bool, rng: np.random.Generator) -> Layout:
    """The layout of a town of ``side`` x ``side`` grid places (side >= 4), driven on the right or on the left.

    Every town has a roundabout and a road with a median island.
    """
    places = [(i, j) for i in range(side) for j in range(side) if not (i in (0, side - 1) and j in (0, side - 1))]
    numbers = {place: number for number, place in enumerate(places)}
    pairs = _pairs(side, numbers, rng)
    is_roundabout = rng.random(len(places)) < ROUNDABOUT_SHARE
    is_roundabout[rng.integers(len(places))] = True
    nodes = {}
    for place, number in numbers.items():
        position = MARGIN + BLOCK * np.array(place, dtype=np.float64) + rng.uniform(-SHAKE, SHAKE, 2)
        nodes[number] = Node(position, float(rng.uniform(15, 18)) if is_roundabout[number] else 0.0)
    extent = 2 * MARGIN + BLOCK * (side - 1)
    middle = np.array([extent, extent]) / 2
    profiles = [random_profile(rng) for _ in pairs]
    corners = [road for road, (_, _, corner) in enumerate(pairs) if corner]
    profiles[corners[rng.integers(len(corners))]] = DIVIDED
    curves = [_curve(nodes[a].position, nodes[b].position, middle if corner else None, rng) for a, b, corner in pairs]
    arms = _arms(pairs, curves)
    trims = _trims(nodes, arms, profiles, curves, rng)
    roads = []
    for (a, b, _), profile, curve, (at_start, at_end) in zip(pairs, profiles, curves, trims):
        total = geometry.arc_lengths(curve)[-1]
        centre = geometry.resample(geometry.cut(curve, at_start, total - at_end), STATION_STEP)
        roads.append(Road(a, b, profile, drive_right, centre))
    return Layout(nodes, roads, arms, (extent, extent))


def _pairs(side: int, numbers: dict[tuple[int, int], int], rng: np.random.Generator) -> list[tuple[int, int, bool]]:
    """Roads as (junction, junction, bends round a corner of the grid)."""
    last = side - 1
    pairs = []
    for (i, j), number in numbers.items():
        for other in ((i + 1, j), (i, j + 1)):
            if other in numbers:
                pairs.append((number, numbers[other], False))
    for i, j in ((0, 0), (0, last), (last, 0), (last, last)):
        pairs.append((numbers[1 if i == 0 else last - 1, j], numbers[i, 1 if j == 0 else last - 1], True))
    degree = np.bincount(np.array([pair[:2] for pair in pairs]).ravel())
    kept = []
    for a, b, corner in pairs:
        if not corner and min(degree[a], degree[b]) > 3 and rng.random() < 0.25:
            degree[[a, b]] -= 1
            continue
        kept.append((a, b, corner) if rng.random() < 0.5 else (b, a, corner))
    return kept


def _curve(a: np.ndarray, b: np.ndarray, middle: Optional[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Centre line between two junctions, finely sampled; ``middle`` of the town is given where it bends round it."""
    chord = b - a
    length = float(np.hypot(*chord))
    heading = np.arctan2(chord[1], chord[0])
    turns = rng.uniform(-BEND, BEND, 2)
    reach = 0.36 * length
    if middle is not None:
        to_middle = middle - a
        middle_is_left = chord[0] * to_middle[1] - chord[1] * to_middle[0] > 0
        turns = np.array([-1.0, 1.0]) * (1.0 if middle_is_left else -1.0) * np.pi / 4 + 0.3 * turns
    departure, arrival = heading + turns[0], heading + turns[1]
    p1 = a + reach * np.array([np.cos(departure), np.sin(departure)])
    p2 = b - reach * np.array([np.cos(arrival), np.sin(arrival)])
    return geometry.cubic_bezier(a, p1, p2, b, 160)


def _arms(pairs: list[tuple[int, int, bool]], curves: list[np.ndarray]) -> dict[int, list[tuple[int, bool]]]:
    """Roads at every junction, counter-clockwise, with whether they leave (True) or arrive there."""
    found: dict[int, list[tuple[float, int, bool]]] = {}
    for road, ((a, b, _), curve) in enumerate(zip(pairs, curves)):
        for node, leaves, line in ((a, True, curve), (b, False, curve[::-1])):
            direction = line[12] - line[0]
            found.setdefault(node, []).append((float(np.arctan2(direction[1], direction[0])), road, leaves))
    return {node: [(road, leaves) for _, road, leaves in sorted(arms)] for node, arms in found.items()}


def _trims(
    nodes: dict[int, Node],
    arms: dict[int, list[tuple[int, bool]]],
    profiles: list[Profile],
    curves: list[np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    """How much of every road belongs to the junctions at its start and its end, metres: [roads, 2]."""
    trims = np.zeros((len(profiles), 2))
    for node, around in arms.items():
        ends = np.array([0 if leaves else 1 for _, leaves in around])
        roads = np.array([road for road, _ in around])
        if nodes[node].ring:
            trims[roads, ends] = nodes[node].ring + 9.0
            continue
        lines = [curves[road] if leaves else curves[road][::-1] for road, leaves in around]
        steps = np.array([line[12] - line[0] for line in lines])
        angles = np.arctan2(steps[:, 1], steps[:, 0])
        widths = np.array([profiles[road].half_width for road in roads])
        between = (np.roll(angles, -1) - angles) % (2 * np.pi)  # from every arm to the next one
        following = np.roll(widths, -1)
        sine = np.sin(between).clip(0.3)
        open_angle = between > 2.6
        own = np.where(open_angle, 4.0, (following + widths * np.cos(between)) / sine)
        nexts = np.where(open_angle, 4.0, (widths + following * np.cos(between)) / sine)
        corner = rng.uniform(4.0, 8.0)
        trims[roads, ends] = np.maximum(np.maximum(own, np.roll(nexts, 1)), 5.0) + corner
    return trims
