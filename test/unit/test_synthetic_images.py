"""Drawn images: the paint lies where the map and the camera model say."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import shapely
from shapely.geometry.polygon import orient

from pivotnet.config import CAMERA_IMAGE_SIZE
from pivotnet.synthetic import geometry
from pivotnet.synthetic.camera_images import LINE_WIDTH, Ground, draw_image
from pivotnet.synthetic.plan import Options, make_plan

HEIGHT, WIDTH = CAMERA_IMAGE_SIZE


@pytest.fixture(scope="module")
def pictures():
    """Town, front camera, pose and grey image of eight samples."""
    plan = make_plan(Options(scenes=4, samples_per_scene=2, seed=5))
    made = []
    for scene in plan.scenes:
        town = plan.towns[scene.location]
        ground = Ground(town)
        front = next(sensor for sensor in scene.sensors if sensor.channel == "CAM_FRONT")
        for pose in scene.poses:
            image = draw_image(front, ground.around(pose), 1.0)
            assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
            made.append((town, front, pose, cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)))
    return made


def boundaries(town) -> list[tuple[np.ndarray, float, float]]:
    """Outlines of the streets, which are on their left: the kerb is outside, asphalt inside."""
    parts = [orient(part) for part in shapely.get_parts(town.paved())]
    return [(np.array(ring.coords), -0.14, 0.6) for part in parts for ring in (part.exterior, *part.interiors)]


def crossings(town) -> list[tuple[np.ndarray, float, float]]:
    """The long sides of crossings, with the asphalt in front of and behind them."""
    corners = [crossing.corners for road in town.roads for crossing in road.crossings]
    return [(side, 0.0, 0.8) for four in corners for side in (four[:2], four[2:])]


def dividers(town) -> list[tuple[np.ndarray, float, float]]:
    """The unbroken lines between the directions."""
    lines = [divider.line for road in town.roads for divider in road.dividers if divider.layer == "road_divider"]
    return [(line, 0.0, 3 * LINE_WIDTH) for line in lines]


@pytest.mark.parametrize("lines_of", [boundaries, crossings, dividers])
def test_paint_in_the_image_lies_on_the_lines_of_the_map(pictures, lines_of):
    checked = 0
    for town, camera, pose, grey in pictures:
        for line, paint, asphalt in lines_of(town):
            line = geometry.resample(line, 0.9, geometry.lengths_along(line)[-1] - 0.9, 0.3)
            normals = geometry.left_normals(line)
            bright, dark = (brightness(grey, camera, pose.to_ego(line + shift * normals)) for shift in (paint, asphalt))
            both = ~(np.isnan(bright) | np.isnan(dark))
            if both.sum() >= 5:
                assert np.median(bright[both]) > np.median(dark[both]) + 60
                checked += 1
    assert checked >= 3


def brightness(grey: np.ndarray, camera, ground: np.ndarray) -> np.ndarray:
    """Brightness at ground points [n, 2] of the ego frame between 4 and 22 m ahead, nan elsewhere: [n]."""
    pixels, depths = camera.project(np.pad(ground, ((0, 0), (0, 1))))
    column, row = np.round(pixels).clip(-1, 9999).astype(int).T
    seen = (depths > 4) & (depths < 22) & (column >= 0) & (column < WIDTH) & (row >= 0) & (row < HEIGHT)
    values = np.full(len(ground), np.nan)
    values[seen] = grey[row[seen], column[seen]]
    return values
