"""The car's sensors: six cameras placed as on nuScenes' cars, and one lidar.

Ego frame: x forward, y left, z up, origin on the ground below the rear axle. Camera frame: x right, y down, z ahead.
Numbers are the usual calibration of nuScenes' cars, rounded; every log shakes them a little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

LIDAR = "LIDAR_TOP"
# channel: (x, y, z) metres, yaw degrees, focal length and principal point pixels
CAMERA_MODEL = {
    "CAM_FRONT": ((1.70, 0.02, 1.51), 0.0, 1266.0, (816.0, 491.0)),
    "CAM_FRONT_RIGHT": ((1.55, -0.49, 1.50), -56.0, 1261.0, (808.0, 496.0)),
    "CAM_BACK_RIGHT": ((1.01, -0.48, 1.56), -110.0, 1260.0, (793.0, 493.0)),
    "CAM_BACK": ((0.03, 0.00, 1.58), 180.0, 809.0, (829.0, 482.0)),
    "CAM_BACK_LEFT": ((1.04, 0.48, 1.59), 109.0, 1257.0, (792.0, 493.0)),
    "CAM_FRONT_LEFT": ((1.52, 0.49, 1.51), 56.0, 1273.0, (827.0, 480.0)),
}
LIDAR_TRANSLATION = (0.94, 0.0, 1.84)
LIDAR_YAW = -90.0


@dataclass
class Sensor:
    """A calibrated sensor; the rotation takes sensor axes to ego axes."""

    channel: str
    translation: np.ndarray  # [3]
    rotation: np.ndarray  # [3, 3]
    intrinsic: np.ndarray  # [3, 3], pixels; empty for the lidar

    @property
    def quaternion(self) -> list[float]:
        """The rotation as (w, x, y, z)."""
        x, y, z, w = Rotation.from_matrix(self.rotation).as_quat().tolist()
        return [w, x, y, z]

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels and depths of points in the ego frame: [n, 3] -> [n, 2], [n]; valid where the depth is positive."""
        local = (points - self.translation) @ self.rotation
        image = local @ self.intrinsic.T
        return image[:, :2] / image[:, 2:], local[:, 2]


def random_sensors(rng: np.random.Generator) -> list[Sensor]:
    """The sensors of one log."""
    sensors = []
    # columns: where the camera's right, down and ahead point to in the ego frame when it looks forward
    forward = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    for channel, (translation, yaw, focal, (cx, cy)) in CAMERA_MODEL.items():
        shake = rng.uniform(-1, 1, 9)
        rotation = Rotation.from_euler("zyx", [yaw + 0.8 * shake[0], 0.5 * shake[1], 0.5 * shake[2]], degrees=True)
        scale = focal * (1 + 0.004 * shake[3])
        intrinsic = np.array([[scale, 0.0, cx + 6 * shake[4]], [0.0, scale, cy + 6 * shake[5]], [0.0, 0.0, 1.0]])
        position = np.array(translation) + 0.02 * shake[6:9]
        sensors.append(Sensor(channel, position, rotation.as_matrix() @ forward, intrinsic))
    yaw_only = Rotation.from_euler("z", LIDAR_YAW, degrees=True).as_matrix()
    sensors.append(Sensor(LIDAR, np.array(LIDAR_TRANSLATION), yaw_only, np.zeros((0, 0))))
    return sensors
