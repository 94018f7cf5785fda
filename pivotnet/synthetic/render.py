"""Camera images: the ground seen through the camera model, then sky, then what stands on the ground, far to near."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pivotnet.synthetic import ground
from pivotnet.synthetic.cameras import IMAGE_HEIGHT, IMAGE_WIDTH, Sensor
from pivotnet.synthetic.ground import Ground
from pivotnet.synthetic.objects import draw_objects
from pivotnet.synthetic.routes import Pose
from pivotnet.synthetic.scenery import Scenery

# Views from above: depth up to which one is used, metres; reach around the car, metres; metres a pixel. A camera sees
# to the side as far as ahead at most, so that the reach is sqrt(2) of the depth and a bit.
VIEWS = ((9.0, 15.0, 0.015), (28.0, 42.0, 0.04), (95.0, 138.0, 0.13))
FAR_OVERSAMPLING = 4  # rows of the furthest view, against flicker where a pixel spans metres
HAZE_START, HAZE_DEPTH = 28.0, 130.0  # metres
NOISE = 2.0  # standard deviation of the sensor's noise
NOISE_MARGIN = 64  # pixels by which the noise picture can be shifted
GRAIN_MARGIN = 400  # pixels by which the ground's texture can be shifted
CLOUD_SIZE = (512, 1024)
SKY_SCALE = 4  # the sky is smooth: painted at a quarter of the resolution
JPEG_QUALITY = 90


@dataclass(frozen=True)
class Weather:
    """Light of a scene; colours BGR."""

    zenith: tuple[int, int, int]
    haze: tuple[int, int, int]
    gain: tuple[float, float, float]
    clouds: float  # strength

    def brightness(self) -> np.ndarray:
        """Table that applies the gain to every channel: uint8 [1, 256, 3]."""
        return np.clip(np.outer(np.arange(256), self.gain), 0, 255).astype(np.uint8)[None]


WEATHERS = (
    Weather((215, 150, 95), (235, 220, 205), (1.0, 1.0, 1.03), 0.8),
    Weather((190, 185, 180), (215, 212, 210), (0.95, 0.93, 0.92), 0.5),
    Weather((170, 130, 120), (150, 185, 225), (0.78, 0.84, 0.95), 0.7),
    Weather((235, 190, 140), (240, 232, 222), (1.06, 1.06, 1.06), 0.3),
)


class Textures:
    """Noise pictures shared by all images of a data set."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 5])
        size = max(int(round(2 * reach / pixel)) for _, reach, pixel in VIEWS)
        self.grain = ground.grain(size + GRAIN_MARGIN, rng)
        shape = (IMAGE_HEIGHT + NOISE_MARGIN, IMAGE_WIDTH + NOISE_MARGIN, 3)
        self.noise = np.round(rng.normal(0.0, NOISE, shape)).astype(np.int16)
        clouds = np.zeros(CLOUD_SIZE, np.float32)
        for cells, strength in ((6, 20.0), (14, 12.0), (40, 6.0), (110, 3.0)):
            coarse = rng.normal(0.0, strength, (cells, 2 * cells)).astype(np.float32)
            clouds += cv2.resize(coarse, CLOUD_SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        self.clouds = clouds


def ground_homography(sensor: Sensor) -> np.ndarray:
    """Takes pixels (u, v, 1) to the ground of the ego frame (x, y, 1) up to scale: [3, 3].

    The ray of a pixel is R K^-1 (u, v, 1); it meets z = 0 where its vertical part has used up the camera's height.
    The last row is that vertical part: negative below the horizon.
    """
    rays = sensor.rotation @ np.linalg.inv(sensor.intrinsic)
    x, y, z = sensor.translation
    return np.stack([x * rays[2] - z * rays[0], y * rays[2] - z * rays[1], rays[2]])


class Renderer:
    """Renders the six images of a sample."""

    def __init__(self, textures: Textures) -> None:
        self._textures = textures

    def views_from_above(self, painted: Ground, pose: Pose, rng: np.random.Generator) -> list[np.ndarray]:
        """The ground around the car, once a resolution: BGR uint8."""
        views = []
        for _, reach, pixel in VIEWS:
            image = ground.draw(painted, pose, reach, pixel)
            top, left = rng.integers(0, GRAIN_MARGIN, 2)
            texture = self._textures.grain[top : top + len(image), left : left + len(image)]
            views.append(cv2.multiply(image, texture, scale=1 / 128))
        return views

    def image(
        self,
        sensor: Sensor,
        views: list[np.ndarray],
        scenery: Scenery,
        pose: Pose,
        weather: Weather,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """One camera's image: BGR uint8 [900, 1600, 3]."""
        image = self._sky(sensor, weather, rng)
        self._ground(image, sensor, views, weather)
        draw_objects(image, sensor, scenery, pose, weather.haze, HAZE_DEPTH)
        image = cv2.LUT(image, weather.brightness())
        top, left = rng.integers(0, NOISE_MARGIN, 2)
        noise = self._textures.noise[top : top + IMAGE_HEIGHT, left : left + IMAGE_WIDTH]
        return cv2.add(image, noise, dtype=cv2.CV_8U)

    def _sky(self, sensor: Sensor, weather: Weather, rng: np.random.Generator) -> np.ndarray:
        """Gradient and clouds, down to the horizon; below it haze-coloured."""
        horizon = sensor.intrinsic[1, 2]
        rows, columns = IMAGE_HEIGHT // SKY_SCALE, IMAGE_WIDTH // SKY_SCALE
        height = np.clip((horizon - SKY_SCALE * np.arange(rows)) / horizon, 0, 1)[:, None]  # [rows, 1]
        colours = np.array(weather.haze) * (1 - height) + np.array(weather.zenith) * height  # [rows, 3]
        top, left = rng.integers(0, CLOUD_SIZE[0] - rows), rng.integers(0, CLOUD_SIZE[1] - columns)
        clouds = self._textures.clouds[top : top + rows, left : left + columns] * weather.clouds * np.sqrt(height)
        sky = np.clip(colours[:, None] + clouds[..., None], 0, 255).astype(np.uint8)
        return cv2.resize(sky, (IMAGE_WIDTH, IMAGE_HEIGHT))

    def _ground(self, image: np.ndarray, sensor: Sensor, views: list[np.ndarray], weather: Weather) -> None:
        """Draw the ground below the horizon into ``image``, from every view where it is the finest."""
        homography = ground_homography(sensor)
        rays = homography[2]
        height = sensor.translation[2]
        nearest = 0.0
        for (depth, reach, pixel), view in zip(VIEWS, views):
            last = depth == VIEWS[-1][0]
            near, far = nearest, np.inf if last else depth
            top, bottom = self._rows(rays, height, near, far)
            nearest = depth
            if bottom <= top:
                continue
            factor = FAR_OVERSAMPLING if last else 1
            # strip pixel -> image pixel -> ground -> pixel of the view from above
            strip = np.array([[1.0, 0, 0], [0, 1 / factor, top + 0.5 / factor - 0.5], [0, 0, 1]])
            above = np.array([[0, -1 / pixel, reach / pixel - 0.5], [-1 / pixel, 0, reach / pixel - 0.5], [0, 0, 1]])
            warped = cv2.warpPerspective(
                view,
                above @ homography @ strip,
                (IMAGE_WIDTH, (bottom - top) * factor),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
            if factor > 1:
                warped = cv2.resize(warped, (IMAGE_WIDTH, bottom - top), interpolation=cv2.INTER_AREA)
            v, u = np.arange(top, bottom)[:, None], np.arange(IMAGE_WIDTH)[None]
            falling = -(rays[0] * u + rays[1] * v + rays[2]).astype(np.float32)  # [rows, W]
            depths = height / np.maximum(falling, 1e-4)
            if last:
                clear = np.exp(-np.maximum(depths - HAZE_START, 0) / HAZE_DEPTH)[..., None]
                hazy = warped * clear + np.array(weather.haze, np.float32) * (1 - clear)
                warped = hazy.astype(np.uint8)
            mask = (falling > 1e-4) & (depths >= near) & (depths < far)
            cv2.copyTo(warped, mask.astype(np.uint8), image[top:bottom])

    @staticmethod
    def _rows(rays: np.ndarray, height: float, near: float, far: float) -> tuple[int, int]:
        """Image rows in which the ground is between two depths somewhere: first, and one past the last."""
        edges = []
        for depth in (far, max(near, 0.1)):
            falling = 0.0 if np.isinf(depth) else height / depth
            edges.append([(-falling - rays[2] - rays[0] * u) / rays[1] for u in (0, IMAGE_WIDTH)])
        top, bottom = int(np.floor(min(edges[0]))), int(np.ceil(max(edges[1]))) + 1
        return max(0, top), min(IMAGE_HEIGHT, bottom if near else IMAGE_HEIGHT)


def encode(image: np.ndarray) -> bytes:
    """The image as JPEG."""
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return encoded.tobytes()
