"""Where BEV cells lie in the images: against a camera whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import torch

from pivotnet.config import MapConfig
from pivotnet.data.projection import bev_cell_centres, project_bev_grid


def test_cells_run_from_front_left_to_back_right():
    centres = bev_cell_centres((4, 2), MapConfig())
    assert centres.shape == (8, 4)
    torch.testing.assert_close(centres[0], torch.tensor([22.5, 7.5, 0.0, 1.0]))
    torch.testing.assert_close(centres[1], torch.tensor([22.5, -7.5, 0.0, 1.0]))
    torch.testing.assert_close(centres[-1], torch.tensor([-22.5, -7.5, 0.0, 1.0]))


def test_level_forward_camera():
    """A camera 2 m above the origin that looks along x sees the cell (x, y) at u = cx - f y / x, v = cy + 2 f / x."""
    camera_to_ego = np.eye(4)
    camera_to_ego[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    camera_to_ego[2, 3] = 2.0
    behind = camera_to_ego.copy()
    behind[:2, :3] *= -1  # looks along -x
    focal, cx, cy = 1000.0, 800.0, 450.0
    intrinsic = np.array([[focal, 0, cx], [0, focal, cy], [0, 0, 1]])
    points, valid = project_bev_grid(np.stack([camera_to_ego, behind]), np.stack([intrinsic] * 2), (12, 6), MapConfig())
    for (x, y, _, _), point, seen in zip(bev_cell_centres((12, 6), MapConfig()).tolist(), points.tolist(), valid):
        camera, forward, left = (0, x, y) if x > 0 else (1, -x, -y)
        u, v = cx - focal * left / forward, cy + 2.0 * focal / forward
        assert bool(seen) == (0 <= u < 1600 and 0 <= v < 900)
        assert math.isclose(point[0], (camera + u / 1600) / 2, abs_tol=1e-6)
        assert math.isclose(point[1], v / 900, abs_tol=1e-6)
    assert 0 < int(valid.sum()) < len(valid)
