"""The ground around the car as a picture seen from above: streets, paint, kerbs, pavements, grass."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import shapely
from shapely.geometry import LineString

from pivotnet.synthetic import geometry
from pivotnet.synthetic.routes import Pose
from pivotnet.synthetic.town import Town

SUBPIXEL_BITS = 4  # of the coordinates given to OpenCV
KERB_WIDTH = 0.28  # metres, outside the boundary line
LINE_WIDTH = 0.18
STRIPE = 0.55  # metres: width of a zebra stripe, and of the gap after it
DASH, DASH_GAP = 3.0, 3.0

# BGR
ASPHALT = ((92, 90, 88), (78, 77, 76), (104, 101, 98))
PAVEMENT = ((158, 162, 166), (138, 146, 156), (166, 164, 158))
GRASS = ((62, 112, 88), (70, 104, 100), (84, 128, 112))
KERB = (205, 208, 210)
WHITE = (232, 234, 234)
YELLOW = (60, 185, 230)
YARD = (120, 118, 114)


@dataclass
class Layer:
    """Polygons of one colour, drawn together: [k, 4, 2] quadrilaterals in the map's frame."""

    colour: tuple[int, int, int]
    quads: np.ndarray
    middles: np.ndarray  # [k, 2]


@dataclass
class Ground:
    """What is drawn for one town, prepared once."""

    paved: shapely.Geometry
    kerb: shapely.Geometry
    walkways: shapely.Geometry
    islands: shapely.Geometry
    paint: list[Layer]
    yard: list[np.ndarray]
    colours: tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]  # asphalt, pavement, grass


def prepare(town: Town, style: int) -> Ground:
    """Everything of a town that lies on the ground."""
    outline = shapely.union_all(
        [LineString(ring.coords) for part in shapely.get_parts(town.paved) for ring in (part.exterior, *part.interiors)]
    )
    kerb = outline.buffer(KERB_WIDTH, quad_segs=2, join_style="mitre").difference(town.paved)
    filled = shapely.union_all([shapely.Polygon(part.exterior) for part in shapely.get_parts(town.paved)])
    islands = [part for part in shapely.get_parts(filled.difference(town.paved)) if part.area < 400.0]
    white, yellow = _paint(town)
    layers = [
        Layer(colour, quads, quads.mean(axis=1)) for colour, quads in ((WHITE, white), (YELLOW, yellow)) if len(quads)
    ]
    colours = ASPHALT[style % 3], PAVEMENT[style // 3 % 3], GRASS[style // 9 % 3]
    return Ground(
        town.paved, kerb, town.walkways, shapely.union_all(islands), layers, [town.yard, town.driveway], colours
    )


def _paint(town: Town) -> tuple[np.ndarray, np.ndarray]:
    """White and yellow paint as quadrilaterals: [k, 4, 2] each. Every line lies where the map has it."""
    white, yellow = [np.zeros((0, 4, 2))], [np.zeros((0, 4, 2))]
    for road in town.layout.roads:
        for divider in road.dividers():
            if divider.kind == "lane_divider":
                white += [geometry.band(part, LINE_WIDTH) for part in geometry.dashes(divider.line, DASH, DASH_GAP)]
            else:
                shift = geometry.left_normals(divider.line) * 0.16
                pair = (divider.line + shift, divider.line - shift)
                (yellow if town.drive_right else white).extend(geometry.band(line, LINE_WIDTH) for line in pair)
        for crossing in road.crossings:
            white.append(_crossing_paint(crossing.corners, crossing.style))
    return np.concatenate(white), np.concatenate(yellow)


def _crossing_paint(corners: np.ndarray, style: str) -> np.ndarray:
    """Stripes along the traffic and, but for the plain zebra, lines along the two long sides: [k, 4, 2]."""
    quads = []
    across = np.hypot(*(corners[1] - corners[0]))
    if style != "lines":
        starts = np.arange(STRIPE / 2, across - STRIPE, 2 * STRIPE) / across
        for first, last in zip(starts, starts + STRIPE / across):
            near = corners[0] + np.outer([first, last], corners[1] - corners[0])
            far = corners[3] + np.outer([last, first], corners[2] - corners[3])
            quads.append(np.concatenate([near, far]))
    if style != "zebra":
        for side in (corners[:2], corners[2:]):
            quads += list(geometry.band(side, 0.25))
    return np.stack(quads)


def draw(ground: Ground, pose: Pose, reach: float, metres_per_pixel: float) -> np.ndarray:
    """The ground within ``reach`` metres of the car: BGR uint8 [s, s, 3]; up is forward, left is left."""
    size = int(round(2 * reach / metres_per_pixel))
    asphalt, pavement, grass = ground.colours
    image = np.zeros((size, size, 3), np.uint8)
    cv2.rectangle(image, (0, 0), (size, size), grass, cv2.FILLED)
    c, s = np.cos(pose.yaw), np.sin(pose.yaw)

    def pixels(points: np.ndarray) -> np.ndarray:
        x, y = points[..., 0] - pose.x, points[..., 1] - pose.y
        forward, left = c * x + s * y, c * y - s * x
        spot = np.stack([reach - left, reach - forward], axis=-1) / metres_per_pixel - 0.5
        return np.round(spot * 2**SUBPIXEL_BITS).astype(np.int32)

    def fill(polygons: list[np.ndarray], colour: tuple[int, int, int]) -> None:
        cv2.fillPoly(image, polygons, colour, cv2.LINE_AA, SUBPIXEL_BITS)

    far = 1.5 * reach
    bounds = (pose.x - far, pose.y - far, pose.x + far, pose.y + far)
    for area in ground.yard:
        fill([pixels(area)], YARD)
    for area, colour in (
        (ground.walkways, pavement),
        (ground.islands, grass),
        (ground.kerb, KERB),
        (ground.paved, asphalt),
    ):
        for part in shapely.get_parts(shapely.clip_by_rect(area, *bounds)):
            if part.geom_type == "Polygon" and not part.is_empty:
                fill([pixels(np.array(ring.coords)) for ring in (part.exterior, *part.interiors)], colour)
    for layer in ground.paint:
        near = np.abs(layer.middles - (pose.x, pose.y)).max(axis=1) < far
        fill(list(pixels(layer.quads[near])), layer.colour)
    return image


def grain(size: int, rng: np.random.Generator) -> np.ndarray:
    """Brightness of rough ground around 128, smooth patches and fine grain: uint8 [size, size, 3], channels equal."""
    texture = rng.normal(0.0, 7.0, (size, size)).astype(np.float32)
    for cells, strength in ((size // 6, 6.0), (size // 40, 7.0), (size // 200, 6.0)):
        coarse = rng.normal(0.0, strength, (max(2, cells),) * 2).astype(np.float32)
        texture += cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR)
    return cv2.merge([np.clip(texture + 128.0, 0, 255).astype(np.uint8)] * 3)
