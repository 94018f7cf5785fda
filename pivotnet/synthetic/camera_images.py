"""Camera images: the ground, projected as the camera model says, with sky above and haze far away."""

from __future__ import annotations

import cv2
import numpy as np
import shapely
from shapely.geometry import LineString, Polygon
from shapely.ops import substring

from pivotnet.config import CAMERA_IMAGE_SIZE
from pivotnet.synthetic.plan import Pose, Sensor
from pivotnet.synthetic.town import Town

NEAR, FAR = 1.0, 120.0  # metres ahead of a camera between which the ground is drawn
HALF_VIEW = 1.1  # metres to either side a metre ahead, a little more than the widest camera sees
HAZE_START, HAZE_DEPTH = 25.0, 40.0  # metres
KERB_WIDTH = 0.28  # metres, outside the boundary line
LINE_WIDTH = 0.18
STRIPE = 0.55  # metres: width of a stripe of a crossing, and of the gap after it
DASH, DASH_GAP = 3.0, 3.0
SUBPIXEL_BITS = 4  # of the coordinates given to OpenCV
JPEG_QUALITY = 90
# BGR
ASPHALT = (92, 90, 88)
GRASS = (62, 112, 88)
KERB = (205, 208, 210)
WHITE = (232, 234, 234)
YELLOW = (60, 185, 230)
ZENITH, HAZE = np.array([215, 150, 95]), np.array([235, 220, 205])
Layer = tuple[tuple[int, int, int], np.ndarray]  # colour and polygons, object [k]


class Ground:
    """What lies on the grass of one town."""

    def __init__(self, town: Town) -> None:
        paved = town.paved()
        dividers = [divider for road in town.roads for divider in road.dividers]
        dashed = [dash for layer, line in dividers if layer == "lane_divider" for dash in _dashes(line)]
        solid = [line for layer, line in dividers if layer == "road_divider"]
        corners = np.stack([crossing.corners for road in town.roads for crossing in road.crossings])
        edges = [*corners[:, :2], *corners[:, 2:]]
        #: drawn in this order, in the map's frame
        self.layers: list[Layer] = [
            (KERB, np.array([paved.buffer(KERB_WIDTH, quad_segs=2, join_style="mitre")])),
            (ASPHALT, np.array([paved])),
            (YELLOW if town.drive_right else WHITE, _bands(solid)),
            (WHITE, np.concatenate([_bands(dashed), _bands(edges), *map(_stripes, corners)])),
        ]

    def around(self, pose: Pose) -> list[Layer]:
        """The layers within sight of the car, in the ego frame."""
        reach = 1.5 * FAR
        window = shapely.box(pose.x - reach, pose.y - reach, pose.x + reach, pose.y + reach)
        shapely.prepare(window)
        found = []
        for colour, polygons in self.layers:
            near = polygons[shapely.intersects(window, polygons)]
            found.append((colour, shapely.transform(shapely.intersection(near, window), pose.to_ego)))
        return found


def _bands(lines: list[np.ndarray]) -> np.ndarray:
    """Painted lines as polygons: object [k]."""
    return np.array([LineString(line).buffer(LINE_WIDTH / 2, cap_style="flat") for line in lines], object)


def _dashes(line: np.ndarray) -> list[np.ndarray]:
    """The painted pieces of a dashed line."""
    whole = LineString(line)
    starts = np.arange(0.0, whole.length - DASH / 2, DASH + DASH_GAP)
    return [np.array(substring(whole, start, start + DASH).coords) for start in starts]


def _stripes(corners: np.ndarray) -> np.ndarray:
    """The stripes of a crossing, which lie along the traffic: object [k]."""
    near, far = corners[1] - corners[0], corners[2] - corners[3]  # the long sides, both from right to left
    starts = np.arange(STRIPE / 2, np.hypot(*near) - STRIPE, 2 * STRIPE) / np.hypot(*near)
    ends = starts + STRIPE / np.hypot(*near)
    sides = [corners[0] + np.outer(at, near) for at in (starts, ends)]
    sides += [corners[3] + np.outer(at, far) for at in (ends, starts)]
    return shapely.polygons(np.stack(sides, axis=1))


def draw_image(sensor: Sensor, layers: list[Layer], brightness: float) -> bytes:
    """One camera's JPEG (900 x 1600) of what lies on the grass, given in the ego frame."""
    height, width = CAMERA_IMAGE_SIZE
    rows = np.arange(height)
    rays = sensor.rotation @ np.linalg.solve(sensor.intrinsic, [np.full(height, width / 2), rows, np.ones(height)])
    depth = sensor.translation[2] / np.maximum(-rays[2], 1e-6)  # [rows] of the ground, huge above the horizon
    horizon = int(np.argmax(rays[2] < 0))
    sky = np.clip(1 - rows / horizon, 0, 1)[:, None]
    image = np.empty((height, width, 3), np.uint8)
    image[:] = (ZENITH * sky + HAZE * (1 - sky)).astype(np.uint8)[:, None]
    view = _view(sensor)

    def pixels(ground: np.ndarray) -> np.ndarray:
        return sensor.project(np.pad(ground, ((0, 0), (0, 1))))[0] * 2**SUBPIXEL_BITS

    for colour, polygons in [(GRASS, np.array([view])), *layers]:
        parts = shapely.get_parts(shapely.intersection(polygons, view))
        for polygon in shapely.transform(parts[shapely.area(parts) > 0], pixels):
            rings = [np.round(shapely.get_coordinates(ring)).astype(np.int32) for ring in shapely.get_rings(polygon)]
            cv2.fillPoly(image, rings, colour, cv2.LINE_AA, SUBPIXEL_BITS)
    far = slice(horizon, int(np.argmax(depth < HAZE_START)))
    clear = np.exp(-(depth[far] - HAZE_START) / HAZE_DEPTH)[:, None, None]
    image[far] = image[far] * clear + HAZE * (1 - clear)
    image = cv2.convertScaleAbs(image, alpha=brightness)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _view(sensor: Sensor) -> Polygon:
    """The ground in front of a camera, in the ego frame: a trapezium."""
    ahead = sensor.rotation[:2, 2] / np.hypot(*sensor.rotation[:2, 2])
    aside = HALF_VIEW * np.array([-ahead[1], ahead[0]])
    corners = [NEAR * (ahead + aside), NEAR * (ahead - aside), FAR * (ahead - aside), FAR * (ahead + aside)]
    return Polygon(sensor.translation[:2] + np.array(corners))
