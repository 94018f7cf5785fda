"""What stands on the ground: buildings, cars, trees and poles. They clutter the images; the map does not know them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry import Polygon

from pivotnet.synthetic import geometry
from pivotnet.synthetic.cars import Car
from pivotnet.synthetic.town import Town

BUILDING_SETBACK = 4.5  # metres from the kerb, at least
FLOOR = 3.4  # metres
# BGR
FACADES = ((150, 170, 190), (110, 140, 180), (190, 190, 185), (120, 130, 140), (95, 110, 150), (170, 185, 170))
CAR_PAINTS = (
    (235, 235, 235),
    (40, 40, 42),
    (150, 150, 150),
    (45, 40, 150),
    (130, 70, 40),
    (90, 95, 95),
    (60, 120, 170),
    (200, 200, 205),
)
GLASS = (70, 62, 55)
LEAVES = ((45, 95, 60), (50, 110, 85), (40, 80, 50))
TRUNK = (55, 70, 90)
METAL = (120, 122, 125)


@dataclass
class Solid:
    """A convex block: outer faces and, on each, painted details such as windows."""

    middle: np.ndarray  # [2], where it stands
    faces: np.ndarray  # [f, 4, 3], seen from outside counter-clockwise
    colours: np.ndarray  # [f, 3] BGR
    details: list[np.ndarray]  # f arrays [d, 4, 3]
    detail_colour: tuple[int, int, int]


@dataclass
class Tree:
    """A trunk with a round crown of several balls (offset x, y, z and radius, metres)."""

    middle: np.ndarray  # [2]
    trunk_height: float
    balls: np.ndarray  # [b, 4]
    colours: np.ndarray  # [b, 3] BGR


@dataclass
class Pole:
    """A street light or sign post."""

    middle: np.ndarray  # [2]
    height: float
    radius: float


@dataclass
class Scenery:
    """Everything that stands in one town."""

    solids: list[Solid]
    trees: list[Tree]
    poles: list[Pole]


def box(ring: np.ndarray, bottom: float, top: float) -> np.ndarray:
    """Four walls and the roof over a counter-clockwise ground ring: [4, 2] -> [5, 4, 3]."""
    low = np.concatenate([ring, np.full((4, 1), bottom)], axis=1)
    high = np.concatenate([ring, np.full((4, 1), top)], axis=1)
    walls = np.stack([low, np.roll(low, -1, axis=0), np.roll(high, -1, axis=0), high], axis=1)
    return np.concatenate([walls, high[None]])


def _shaded(faces: np.ndarray, colour: tuple[int, int, int], sun: float) -> np.ndarray:
    """Colours of faces lit from the direction ``sun`` (radians): [f, 3]."""
    normal = np.cross(faces[:, 1] - faces[:, 0], faces[:, 2] - faces[:, 1])
    normal = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    light = 0.72 + 0.22 * (normal[:, 0] * np.cos(sun) + normal[:, 1] * np.sin(sun)) + 0.2 * normal[:, 2]
    return np.clip(np.outer(light, colour), 0, 255)


def _windows(face: np.ndarray, columns: int, rows: int) -> np.ndarray:
    """A grid of windows on a wall: [4, 3] -> [columns * rows, 4, 3]."""
    across, up = face[1] - face[0], face[3] - face[0]
    u, v = (grid.reshape(-1, 1) for grid in np.meshgrid(np.arange(columns), np.arange(rows)))
    corners = [
        face[0] + (u + du) / columns * across + (v + dv) / rows * up
        for du, dv in ((0.22, 0.3), (0.78, 0.3), (0.78, 0.8), (0.22, 0.8))
    ]
    return np.stack(corners, axis=1)


def _building(ring: np.ndarray, height: float, colour: tuple[int, int, int], sun: float) -> Solid:
    faces = box(ring, 0.0, height)
    details = []
    for face in faces[:4]:
        columns = max(1, int(np.hypot(*(face[1] - face[0])[:2]) / 3.6))
        details.append(_windows(face, columns, max(1, int(height / FLOOR))))
    details.append(np.zeros((0, 4, 3)))
    return Solid(ring.mean(axis=0), faces, _shaded(faces, colour, sun), details, GLASS)


def car_solids(car: Car, sun: float) -> list[Solid]:
    """Undercarriage, body and cabin of a car, to be drawn in this order."""
    middle = np.array([car.x, car.y])
    heading = np.array([np.cos(car.yaw), np.sin(car.yaw)])
    paint = CAR_PAINTS[car.colour]
    belt = 0.58 * car.height
    under = box(geometry.rectangle(middle, 0.94 * car.length, 0.94 * car.width, car.yaw), 0.0, 0.28)
    body = box(geometry.rectangle(middle, car.length, car.width, car.yaw), 0.28, belt)
    upper = geometry.rectangle(middle - 0.15 * heading, 0.55 * car.length, 0.9 * car.width, car.yaw)
    cabin = box(upper, belt, car.height)
    glass = [_windows(face, 1, 1) for face in cabin[:4]] + [np.zeros((0, 4, 3))]
    none = [np.zeros((0, 4, 3))] * 5
    return [
        Solid(middle, under, np.full((5, 3), 28.0), none, GLASS),
        Solid(middle, body, _shaded(body, paint, sun), none, GLASS),
        Solid(middle, cabin, _shaded(cabin, paint, sun), glass, GLASS),
    ]


def build_scenery(town: Town, cars: list[Car], rng: np.random.Generator) -> Scenery:
    """Line the streets of a town; nothing but the cars stands on a road."""
    sun = float(rng.uniform(-np.pi, np.pi))
    solids = [
        _building(ring, float(rng.uniform(5, 26)), FACADES[rng.integers(len(FACADES))], sun)
        for ring in _building_plots(town, rng)
    ]
    for car in cars:
        solids += car_solids(car, sun)
    trees = [_tree(spot, rng) for spot in _beside_roads(town, rng, spacing=13.0, aside=(4.0, 6.5), clearance=2.8)]
    poles = [
        Pole(spot, float(rng.uniform(4.5, 8.0)), float(rng.uniform(0.06, 0.12)))
        for spot in _beside_roads(town, rng, spacing=24.0, aside=(0.9, 1.4), clearance=0.6)
    ]
    return Scenery(solids, trees, poles)


def _tree(spot: np.ndarray, rng: np.random.Generator) -> Tree:
    height = float(rng.uniform(2.2, 4.0))
    spread = float(rng.uniform(0.9, 1.7))
    count = 7
    balls = np.concatenate(
        [rng.uniform(-spread, spread, (count, 2)) * 0.8, rng.uniform(0.2, 1.8, (count, 1)) * spread + height], axis=1
    )
    radii = rng.uniform(0.55, 0.95, (count, 1)) * spread
    colours = np.array(LEAVES[rng.integers(len(LEAVES))]) * rng.uniform(0.75, 1.25, (count, 1))
    return Tree(spot, height, np.concatenate([balls, radii], axis=1), np.clip(colours, 0, 255))


def _building_plots(town: Town, rng: np.random.Generator) -> list[np.ndarray]:
    """Ground rings of buildings that touch neither streets nor one another: [4, 2] each."""
    rings = []
    for road in town.layout.roads:
        for side in (-1.0, 1.0):
            distance = float(rng.uniform(0, 8))
            while distance < road.length:
                along, deep = float(rng.uniform(9, 22)), float(rng.uniform(8, 14))
                index = int(np.argmin(np.abs(road.lengths - distance)))
                step = road.centre[min(index + 1, len(road.centre) - 1)] - road.centre[max(index - 1, 0)]
                yaw = float(np.arctan2(step[1], step[0]))
                out = side * (road.profile.half_width + BUILDING_SETBACK + float(rng.uniform(0, 5)) + deep / 2)
                middle = road.centre[index] + out * np.array([-np.sin(yaw), np.cos(yaw)])
                rings.append(geometry.rectangle(middle, along, deep, yaw))
                distance += along + float(rng.uniform(2, 14))
    polygons = shapely.polygons(np.stack(rings))
    streets = town.paved.buffer(BUILDING_SETBACK - 0.5, quad_segs=2).union(Polygon(town.driveway).buffer(3.0))
    streets = streets.union(Polygon(town.yard).buffer(2.0))
    shapely.prepare(streets)
    free = ~shapely.intersects(streets, polygons)
    tree = shapely.STRtree(polygons)
    kept = np.zeros(len(rings), dtype=bool)
    for index in np.flatnonzero(free):
        kept[index] = not kept[tree.query(polygons[index], predicate="intersects")].any()
    return [ring for ring, keep in zip(rings, kept) if keep]


def _beside_roads(
    town: Town, rng: np.random.Generator, spacing: float, aside: tuple[float, float], clearance: float
) -> np.ndarray:
    """Spots beside the kerbs, none on a road or driveway: [n, 2]."""
    spots = []
    for road in town.layout.roads:
        normals = geometry.left_normals(road.centre)
        for side in (-1.0, 1.0):
            distances = np.arange(rng.uniform(0, spacing), road.length, spacing)
            distances = distances + rng.uniform(-0.3, 0.3, len(distances)) * spacing
            index = np.abs(road.lengths[:, None] - distances).argmin(axis=0)
            out = road.profile.half_width + rng.uniform(*aside, len(distances))
            spots.append(road.centre[index] + side * out[:, None] * normals[index])
    found = np.concatenate(spots)
    keep_out = town.paved.buffer(clearance, quad_segs=2).union(Polygon(town.driveway).buffer(1.0))
    shapely.prepare(keep_out)
    return found[~shapely.intersects(keep_out, shapely.points(found))]
