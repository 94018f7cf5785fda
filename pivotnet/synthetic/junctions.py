"""The paved area between the arms of a junction, and the ways to drive through it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np

from pivotnet.synthetic import geometry
from pivotnet.synthetic.layout import Layout
from pivotnet.synthetic.roads import Lane, Road, without_repeats

CORNER_POINTS = 9
RING_LANE = 7.5  # metres between the island of a roundabout and its outer kerb
ARC_STEP = 1.5  # metres between vertices of a circle


@dataclass
class Arm:
    """The end of a road at a junction, seen from the junction outwards."""

    road: int
    leaves: bool  # the road's centre line starts here
    section: np.ndarray  # [k, 2], vertices of the last cross section from the right kerb to the left one
    outward: np.ndarray  # [2], unit vector


@dataclass
class Junction:
    """A built junction."""

    node: int
    arms: list[Arm]
    ring: np.ndarray  # [n, 2], counter-clockwise, not closed
    hole: Optional[np.ndarray]  # the island of a roundabout: [m, 2]
    centre: np.ndarray  # [2]
    ring_radius: float  # middle of the ring road, 0 at a plain junction


def arm_of(road: Road, number: int, leaves: bool) -> Arm:
    """The end of ``road`` (whose index is ``number``) at the junction where it starts or where it ends."""
    if leaves:
        step = road.centre[1] - road.centre[0]
        section = road.borders[:, 0]
    else:
        step = road.centre[-2] - road.centre[-1]
        section = road.borders[::-1, -1]
    return Arm(number, leaves, section, step / np.hypot(*step))


def build(layout: Layout, node: int) -> Junction:
    """The junction at ``node``: a ring through its arms' cross sections, with rounded corners between them."""
    arms = [arm_of(layout.roads[road], road, leaves) for road, leaves in layout.arms[node]]
    place = layout.nodes[node]
    parts = []
    for arm, following in zip(arms, arms[1:] + arms[:1]):
        parts.append(arm.section)
        if place.ring:
            parts.append(_round_the_ring(arm, following, place.position, place.ring))
        else:
            control = geometry.meeting_point(arm.section[-1], -arm.outward, following.section[0], -following.outward)
            corner = geometry.quadratic_bezier(arm.section[-1], control, following.section[0], CORNER_POINTS + 2)
            parts.append(corner[1:-1])
    hole = None
    if place.ring:
        hole = geometry.arc(place.position, place.ring - RING_LANE, 0.0, 2 * np.pi, ARC_STEP)[:-1]
    ring_radius = place.ring - RING_LANE / 2 if place.ring else 0.0
    return Junction(node, arms, without_repeats(np.concatenate(parts)), hole, place.position, ring_radius)


def _round_the_ring(arm: Arm, following: Arm, centre: np.ndarray, radius: float) -> np.ndarray:
    """Kerb of a roundabout from the left end of one arm to the right end of the next: two flares and an arc."""
    start = _angle(arm.section[-1] - centre)
    end = start + (_angle(following.section[0] - centre) - start) % (2 * np.pi)
    flare = min(0.38, 0.3 * (end - start))
    circle = geometry.arc(centre, radius, start + flare, end - flare, ARC_STEP)
    entry = np.array([np.cos(start + flare / 2), np.sin(start + flare / 2)]) * radius * 1.02 + centre
    leave = np.array([np.cos(end - flare / 2), np.sin(end - flare / 2)]) * radius * 1.02 + centre
    first = geometry.quadratic_bezier(arm.section[-1], entry, circle[0], 6)[1:-1]
    last = geometry.quadratic_bezier(circle[-1], leave, following.section[0], 6)[1:-1]
    return np.concatenate([first, circle, last])


def _angle(vector: np.ndarray) -> float:
    return float(np.arctan2(vector[1], vector[0]))


def through(junction: Junction, entering: Lane, leaving: Lane, drive_right: bool) -> np.ndarray:
    """Driving line from the end of one lane to the start of another: [n, 2], both ends included."""
    start, end = entering.centre[-1], leaving.centre[0]
    start_step = start - entering.centre[-2]
    end_step = leaving.centre[1] - end
    start_step, end_step = start_step / np.hypot(*start_step), end_step / np.hypot(*end_step)
    # round the island: with traffic on the right counter-clockwise, else clockwise
    sense = 1.0 if drive_right else -1.0
    first, last = _angle(start - junction.centre), _angle(end - junction.centre)
    sweep = sense * ((sense * (last - first)) % (2 * np.pi))
    if not junction.ring_radius:
        reach = 0.4 * np.hypot(*(end - start))
        return geometry.cubic_bezier(start, start + reach * start_step, end - reach * end_step, end, 14)
    lead = sense * min(0.55, abs(sweep) / 3)
    circle = geometry.arc(junction.centre, junction.ring_radius, first + lead, first + sweep - lead, ARC_STEP)
    entry = geometry.quadratic_bezier(start, start + 5.0 * start_step, circle[0], 6)
    leave = geometry.quadratic_bezier(circle[-1], end - 5.0 * end_step, end, 6)
    return np.concatenate([entry[:-1], circle, leave[1:]])
