"""Parked cars: part of the scenery, and the only annotated objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pivotnet.synthetic.town import Town

CAR_CATEGORY = "vehicle.car"
ANNOTATED_RANGE = 50.0  # metres from the ego car
CLEARANCE = 5.0  # metres: nothing stands closer to the ego car
GAP = 7.0  # metres between parking places


@dataclass(frozen=True)
class Car:
    """A car standing on the ground; yaw in radians."""

    x: float
    y: float
    yaw: float
    length: float
    width: float
    height: float
    colour: int  # which paint

    def distance(self, x: float, y: float) -> float:
        """Metres from a point to the car's middle."""
        return float(np.hypot(self.x - x, self.y - y))

    def is_annotated(self, x: float, y: float) -> bool:
        """Whether an ego car at this point sees and annotates it."""
        return CLEARANCE <= self.distance(x, y) <= ANNOTATED_RANGE


def park_cars(town: Town, rng: np.random.Generator) -> list[Car]:
    """Cars in the parking strips, away from crossings and junctions, and a few in the yard."""
    places = []
    for road in town.layout.roads:
        if not road.profile.parking:
            continue
        for side, borders in ((-1, (0, 1)), (1, (-1, -2))):
            line = (road.borders[borders[0]] + road.borders[borders[1]]) / 2
            for distance in np.arange(8.0, road.length - 8.0, GAP):
                blocked = any(span[0] - 3.0 < distance < span[1] + 3.0 for span in (c.span for c in road.crossings))
                if blocked or rng.random() < 0.5:
                    continue
                x, y = (np.interp(distance, road.lengths, line[:, axis]) for axis in (0, 1))
                ahead = np.array([np.interp(distance + 1.0, road.lengths, line[:, axis]) for axis in (0, 1)])
                yaw = float(np.arctan2(ahead[1] - y, ahead[0] - x))
                along = (side < 0) == town.drive_right or not road.profile.backward
                places.append((float(x), float(y), yaw if along else yaw + np.pi))
    middle = town.yard.mean(axis=0)
    for _ in range(6):
        angle = rng.uniform(-np.pi, np.pi)
        x, y = middle + rng.uniform(14.0, 40.0) * np.array([np.cos(angle), np.sin(angle)])
        places.append((float(x), float(y), float(rng.uniform(-np.pi, np.pi))))
    return [
        Car(
            x,
            y,
            yaw,
            length=float(rng.uniform(3.9, 4.8)),
            width=float(rng.uniform(1.7, 1.9)),
            height=float(rng.uniform(1.4, 1.8)),
            colour=int(rng.integers(8)),
        )
        for x, y, yaw in places
    ]
