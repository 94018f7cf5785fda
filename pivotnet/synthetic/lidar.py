"""A lidar sweep over flat, empty ground, so that the files that the tables name exist and can be read."""

from __future__ import annotations

import numpy as np

from pivotnet.synthetic.cameras import Sensor

BEAMS_DOWN = np.radians(np.linspace(-30.0, -2.0, 22))  # the beams of a 32-beam lidar that point below the horizon
COLUMNS = 360


def sweep(sensor: Sensor, rng: np.random.Generator) -> bytes:
    """Points where the beams meet the ground, as nuScenes' .pcd.bin: float32 (x, y, z, intensity, ring), sensor frame."""
    azimuth = np.linspace(-np.pi, np.pi, COLUMNS, endpoint=False)
    elevation, azimuth = np.meshgrid(BEAMS_DOWN, azimuth, indexing="ij")
    distance = sensor.translation[2] / -np.sin(elevation) + rng.normal(0.0, 0.02, elevation.shape)
    flat = distance * np.cos(elevation)
    ring = np.broadcast_to(np.arange(len(BEAMS_DOWN))[:, None], elevation.shape)
    intensity = np.full(elevation.shape, 12.0)
    points = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), distance * np.sin(elevation), intensity, ring], -1)
    return points.astype("<f4").tobytes()
