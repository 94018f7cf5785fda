"""Where the cells of the BEV grid lie in the camera images. Everything here depends on the cameras alone, so the data
loader computes it on the host, in float32 and in upstream's order of operations (validity is decided by comparisons,
which rounding can tip)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pivotnet.config import CAMERA_IMAGE_SIZE, MapConfig


def bev_cell_centres(bev_size: tuple[int, int], map_config: MapConfig) -> Tensor:
    """Homogeneous ego coordinates (x forward, y left, z = 0, 1) of the cell centres, float32 [N, 4], metres; rows run
    from the front to the back, columns from the left to the right."""
    axes = []
    for cells, pixels in zip(bev_size, map_config.map_size):
        metres = map_config.resolution / (cells / pixels)  # a cell
        axes.append((torch.arange(cells - 1, -1, -1) + 0.5 - cells / 2) * metres)
    x, y = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x), torch.ones_like(x)], dim=-1).reshape(-1, 4)


def project_bev_grid(
    extrinsic: np.ndarray | Tensor, intrinsic: np.ndarray | Tensor, bev_size: tuple[int, int], map_config: MapConfig
) -> tuple[Tensor, Tensor]:
    """Project the ground under every cell of a grid of ``bev_size`` (rows, columns) into the camera that looks at it
    most directly. ``extrinsic`` [cameras, 4, 4] is camera to ego, metres; ``intrinsic`` [cameras, 3, 3], pixels of a
    whole image. Returns reference points, float32 [N, 2] (x, y) in the image of all cameras side by side, in [0, 1]
    where valid, and validity, bool [N]: some camera sees the cell."""
    camera_to_ego = torch.as_tensor(extrinsic).float()
    intrinsic = torch.as_tensor(intrinsic).float()
    height, width = CAMERA_IMAGE_SIZE
    cells = bev_cell_centres(bev_size, map_config)
    points = torch.stack([(torch.linalg.inv(matrix) @ cells.T)[:3] for matrix in camera_to_ego])  # [cameras, 3, N]
    # Upstream divides by the sum over the cameras (not over x, y, z) before it compares depths. The order of the
    # cameras stays the same; only the rounding is its own.
    depth = F.normalize(points, p=1.0, dim=0)[:, 2]  # [cameras, N]
    camera = torch.argmax(depth, dim=0)  # [N]
    index = torch.arange(len(cells))
    valid = depth[camera, index] > 0
    pixel = (intrinsic[camera] @ points[camera, :, index][:, :, None])[..., 0]  # [N, 3]
    u, v = (pixel[:, :2] / pixel[:, 2:]).unbind(1)
    valid = valid & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    return torch.stack([(camera + u / width) / len(points), v / height], dim=-1), valid
