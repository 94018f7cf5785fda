"""Draws solids, trees and poles into a camera image, the furthest first."""

from __future__ import annotations

from typing import Union

import cv2
import numpy as np

from pivotnet.synthetic.cameras import IMAGE_HEIGHT, IMAGE_WIDTH, Sensor
from pivotnet.synthetic.cars import CLEARANCE
from pivotnet.synthetic.routes import Pose
from pivotnet.synthetic.scenery import METAL, TRUNK, Pole, Scenery, Solid, Tree

DRAWN_RANGE = 150.0  # metres
DETAIL_RANGE = 70.0
NEAR_PLANE = 0.3
SUBPIXEL_BITS = 4


class _Canvas:
    """An image and the transformation from the map into its camera."""

    def __init__(self, image: np.ndarray, sensor: Sensor, pose: Pose, haze: tuple[int, int, int], haze_depth: float):
        self.image = image
        self._haze = np.array(haze, dtype=np.float64)
        self._haze_depth = haze_depth
        c, s = np.cos(pose.yaw), np.sin(pose.yaw)
        to_ego = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
        self._rotation = sensor.rotation.T @ to_ego
        self._shift = -self._rotation @ np.array([pose.x, pose.y, 0.0]) - sensor.rotation.T @ sensor.translation
        self._intrinsic = sensor.intrinsic
        self.focal = float(sensor.intrinsic[0, 0])

    def local(self, points: np.ndarray) -> np.ndarray:
        """Map coordinates to camera coordinates: [..., 3] -> [..., 3]."""
        return points @ self._rotation.T + self._shift

    def pixels(self, local: np.ndarray) -> np.ndarray:
        """Camera coordinates (in front) to pixels: [..., 3] -> [..., 2]."""
        image = local @ self._intrinsic.T
        return image[..., :2] / image[..., 2:]

    def colour(self, colour: np.ndarray, depth: float) -> tuple[float, ...]:
        """A colour seen through the haze."""
        clear = np.exp(-max(depth - 20.0, 0.0) / self._haze_depth)
        return tuple((np.asarray(colour) * clear + self._haze * (1 - clear)).tolist())

    def fill(self, polygons: list[np.ndarray], colour: tuple[float, ...]) -> None:
        """Fill polygons given in pixels."""
        scaled = [np.round(polygon * 2**SUBPIXEL_BITS).astype(np.int32) for polygon in polygons]
        cv2.fillPoly(self.image, scaled, colour, cv2.LINE_AA, SUBPIXEL_BITS)


def draw_objects(
    image: np.ndarray, sensor: Sensor, scenery: Scenery, pose: Pose, haze: tuple[int, int, int], haze_depth: float
) -> None:
    """Draw everything near the car into ``image``. What stands closer than the car's own length is left out."""
    canvas = _Canvas(image, sensor, pose, haze, haze_depth)
    items: list[Union[Solid, Tree, Pole]] = [*scenery.solids, *scenery.trees, *scenery.poles]
    middles = np.stack([item.middle for item in items])
    distances = np.hypot(middles[:, 0] - pose.x, middles[:, 1] - pose.y)
    ahead = canvas.local(np.concatenate([middles, np.zeros((len(items), 1))], axis=1))
    # a cone wider than any of the cameras', with room for the size of a building
    seen = (distances > CLEARANCE) & (distances < DRAWN_RANGE)
    seen &= (ahead[:, 2] > -20.0) & (np.abs(ahead[:, 0]) < 1.1 * np.maximum(ahead[:, 2], 0.0) + 20.0)
    for index in np.flatnonzero(seen)[np.argsort(-distances[seen], kind="stable")]:
        item = items[index]
        if isinstance(item, Solid):
            _draw_solid(canvas, item)
        elif isinstance(item, Tree):
            _draw_tree(canvas, item)
        else:
            _draw_post(canvas, item.middle, item.height, item.radius, METAL)


def _draw_solid(canvas: _Canvas, solid: Solid) -> None:
    faces = canvas.local(solid.faces)  # [f, 4, 3]
    normals = np.cross(faces[:, 1] - faces[:, 0], faces[:, 2] - faces[:, 1])
    facing = (normals * faces[:, 0]).sum(axis=1) < 0
    depths = faces[..., 2].mean(axis=1)
    for index in np.flatnonzero(facing)[np.argsort(-depths[facing], kind="stable")]:
        outline = clip_near(faces[index])
        if len(outline) < 3:
            continue
        pixels = canvas.pixels(outline)
        if not _touches_image(pixels):
            continue
        depth = max(float(depths[index]), 0.0)
        canvas.fill([pixels], canvas.colour(solid.colours[index], depth))
        details = solid.details[index]
        if len(details) and depth < DETAIL_RANGE:
            local = canvas.local(details)
            local = local[(local[..., 2] > NEAR_PLANE).all(axis=1)]
            canvas.fill(list(canvas.pixels(local)), canvas.colour(np.array(solid.detail_colour), depth))


def _draw_tree(canvas: _Canvas, tree: Tree) -> None:
    _draw_post(canvas, tree.middle, tree.trunk_height, 0.14, TRUNK)
    centres = np.concatenate([tree.middle + tree.balls[:, :2], tree.balls[:, 2:3]], axis=1)
    local = canvas.local(centres)
    for index in np.argsort(-local[:, 2], kind="stable"):
        depth = float(local[index, 2])
        if depth < 1.5:
            continue
        u, v = canvas.pixels(local[index])
        radius = canvas.focal * tree.balls[index, 3] / depth
        if not (-radius < u < IMAGE_WIDTH + radius and -radius < v < IMAGE_HEIGHT + radius):
            continue
        scale = 2**SUBPIXEL_BITS
        centre = (int(round(u * scale)), int(round(v * scale)))
        colour = canvas.colour(tree.colours[index], depth)
        cv2.circle(canvas.image, centre, int(round(radius * scale)), colour, cv2.FILLED, cv2.LINE_AA, SUBPIXEL_BITS)


def _draw_post(canvas: _Canvas, middle: np.ndarray, height: float, radius: float, colour: tuple[int, int, int]) -> None:
    ends = canvas.local(np.array([[*middle, 0.0], [*middle, height]]))
    if ends[:, 2].min() < 1.0:
        return
    (u0, v0), (u1, v1) = canvas.pixels(ends)
    half = canvas.focal * radius / ends[:, 2]
    outline = np.array([[u0 - half[0], v0], [u0 + half[0], v0], [u1 + half[1], v1], [u1 - half[1], v1]])
    if _touches_image(outline):
        canvas.fill([outline], canvas.colour(np.array(colour), float(ends[0, 2])))


def clip_near(polygon: np.ndarray) -> np.ndarray:
    """The part of a polygon in camera coordinates in front of the near plane: [n, 3] -> [m, 3]."""
    inside = polygon[:, 2] >= NEAR_PLANE
    if inside.all():
        return polygon
    kept = []
    for index, (point, following) in enumerate(zip(polygon, np.roll(polygon, -1, axis=0))):
        if inside[index]:
            kept.append(point)
        if inside[index] != inside[(index + 1) % len(polygon)]:
            share = (NEAR_PLANE - point[2]) / (following[2] - point[2])
            kept.append(point + share * (following - point))
    return np.array(kept).reshape(-1, 3)


def _touches_image(pixels: np.ndarray) -> bool:
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    return bool(high[0] > 0 and high[1] > 0 and low[0] < IMAGE_WIDTH and low[1] < IMAGE_HEIGHT)
