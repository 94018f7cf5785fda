"""Rendered images: the paint lies where the map and the camera model say."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from shapely.geometry.polygon import orient

from pivotnet.synthetic import geometry, lidar
from pivotnet.synthetic.cameras import CAMERA_MODEL, IMAGE_HEIGHT, IMAGE_WIDTH, random_rig
from pivotnet.synthetic.cars import Car
from pivotnet.synthetic.ground import draw, prepare
from pivotnet.synthetic.objects import clip_near
from pivotnet.synthetic.plan import Options, make_plan
from pivotnet.synthetic.render import WEATHERS, Renderer, Textures, ground_homography
from pivotnet.synthetic.routes import Pose
from pivotnet.synthetic.scenery import Pole, Scenery


@pytest.fixture(scope="module")
def rig():
    return random_rig(np.random.default_rng(3))


def ego_points(pose: Pose, line: np.ndarray) -> np.ndarray:
    """Map coordinates to the ground of the ego frame: [n, 2] -> [n, 3]."""
    c, s = np.cos(pose.yaw), np.sin(pose.yaw)
    x, y = line[:, 0] - pose.x, line[:, 1] - pose.y
    return np.stack([c * x + s * y, c * y - s * x, np.zeros(len(line))], axis=1)


def test_cameras_look_where_their_names_say(rig):
    by_name = {sensor.channel: sensor for sensor in rig}
    for channel, (_, yaw, _, _) in CAMERA_MODEL.items():
        ahead = by_name[channel].rotation[:, 2]
        expected = np.array([np.cos(np.radians(yaw)), np.sin(np.radians(yaw)), 0.0])
        assert ahead @ expected > np.cos(np.radians(1.5))
        assert np.allclose(by_name[channel].rotation @ by_name[channel].rotation.T, np.eye(3))
        assert np.linalg.det(by_name[channel].rotation) == pytest.approx(1.0)
    pixel, depth = by_name["CAM_FRONT"].project(np.array([[20.0, 2.0, 0.0]]))
    assert depth[0] == pytest.approx(18.3, abs=0.4)
    assert pixel[0, 0] < IMAGE_WIDTH / 2 and pixel[0, 1] > IMAGE_HEIGHT / 2, "left and below the horizon"


def test_the_ground_homography_inverts_the_projection(rig):
    for sensor in rig[:6]:
        away = sensor.rotation[:, 2] * 12.0 + sensor.translation
        points = np.array([[away[0], away[1], 0.0], [away[0] + 0.7, away[1] - 0.4, 0.0]])
        pixels, _ = sensor.project(points)
        back = np.concatenate([pixels, np.ones((2, 1))], axis=1) @ ground_homography(sensor).T
        assert np.allclose(back[:, :2] / back[:, 2:], points[:, :2])
        assert np.all(back[:, 2] < 0)


def test_paint_in_the_image_lies_on_the_lines_of_the_map():
    plan = make_plan(Options(scenes=4, samples_per_scene=2, seed=5))
    renderer = Renderer(Textures(5))
    nothing = Scenery([], [], [Pole(np.array([-1e4, -1e4]), 1.0, 0.1)])
    checked = 0
    for scene in plan.scenes:
        town = plan.towns[scene.location]
        painted = prepare(town, 0)
        front = next(sensor for sensor in scene.rig if sensor.channel == "CAM_FRONT")
        for pose in scene.poses:
            rng = np.random.default_rng(0)
            views = renderer.views_from_above(painted, pose, rng)
            image = renderer.image(front, views, nothing, pose, WEATHERS[0], rng)
            grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
            for road in town.layout.roads:
                for crossing in road.crossings:
                    if crossing.style == "zebra":
                        continue
                    for side in (crossing.corners[:2], crossing.corners[2:]):
                        line = geometry.resample(side, 0.3)[3:-3]
                        outwards = geometry.left_normals(line)
                        bright = _visible(grey, front, ego_points(pose, line))
                        dark = _visible(grey, front, ego_points(pose, line + 0.8 * outwards))
                        both = ~(np.isnan(bright) | np.isnan(dark))
                        if both.sum() >= 5:
                            assert np.median(bright[both]) > np.median(dark[both]) + 60
                            checked += 1
    assert checked >= 3


def _visible(grey: np.ndarray, sensor, points: np.ndarray) -> np.ndarray:
    """Brightness at ground points between 4 and 22 m ahead, nan elsewhere."""
    pixels, depths = sensor.project(points)
    column, row = np.round(pixels).astype(int).T
    seen = (depths > 4) & (depths < 22) & (column >= 0) & (column < IMAGE_WIDTH) & (row >= 0) & (row < IMAGE_HEIGHT)
    values = np.full(len(points), np.nan)
    values[seen] = grey[row[seen], column[seen]]
    return values


def test_the_view_from_above_shows_kerbs_at_the_edge_of_the_street():
    plan = make_plan(Options(scenes=1, samples_per_scene=1, seed=2))
    (scene,) = plan.scenes
    pose = scene.poses[0]
    painted = prepare(plan.towns[scene.location], 0)
    reach, pixel = 20.0, 0.05
    grey = cv2.cvtColor(draw(painted, pose, reach, pixel), cv2.COLOR_BGR2GRAY)
    ring = np.array(orient(plan.towns[scene.location].paved).exterior.coords)  # the street is on the left of it
    line = geometry.resample(ring, 0.5)
    kerb, road = line - 0.14 * geometry.left_normals(line), line + 0.6 * geometry.left_normals(line)
    values = []
    for points in (kerb, road):
        x, y, _ = ego_points(pose, points).T
        near = (np.abs(x) < 19) & (np.abs(y) < 19)
        row, column = np.round([(reach - x) / pixel - 0.5, (reach - y) / pixel - 0.5]).astype(int)
        values.append(np.median(grey[row[near], column[near]]))
    assert values[0] > 190 and values[1] < 110


def test_faces_are_clipped_at_the_near_plane():
    face = np.array([[0.0, 0.0, -1.0], [1.0, 0.0, 3.0], [1.0, 1.0, 3.0], [0.0, 1.0, -1.0]])
    clipped = clip_near(face)
    assert len(clipped) == 4 and clipped[:, 2].min() == pytest.approx(0.3)
    assert clipped[clipped[:, 2] < 1][:, 0] == pytest.approx([0.325, 0.325])
    assert len(clip_near(face - [0, 0, 9])) == 0
    assert clip_near(face + [0, 0, 9]) is not None and len(clip_near(face + [0, 0, 9])) == 4


def test_lidar_points_lie_on_the_ground_or_on_a_car(rig):
    sensor = rig[6]
    pose = Pose(100.0, 50.0, 0.7)
    ahead = 12.0 * np.array([np.cos(0.7), np.sin(0.7)])
    car = Car(100.0 + ahead[0], 50.0 + ahead[1], 0.7, 4.0, 1.8, 1.5, 0)
    distance, hit = lidar.cast(sensor, pose, [car])
    met = np.isfinite(distance)
    points = lidar.directions()[met] * distance[met, None] @ sensor.rotation.T + sensor.translation
    on_car = hit[met] == 0
    assert np.allclose(points[~on_car, 2], 0.0)
    assert on_car.sum() > 20
    # its rear bumper, or its roof; nothing behind it on the ground
    assert np.all((points[on_car, 0] >= 10.0 - 1e-9) & (points[on_car, 0] <= 14.0))
    assert np.all(np.abs(points[on_car, 1]) <= 0.9 + 1e-9)
    shadow = (np.abs(points[:, 1]) < 0.5) & (points[:, 0] > 14.1) & (points[:, 0] < 25)
    assert not shadow.any()
    raw = np.frombuffer(lidar.sweep(sensor, pose, [car], np.random.default_rng(0)), "<f4").reshape(-1, 5)
    assert len(raw) == met.sum() and raw[:, 4].max() < 32
