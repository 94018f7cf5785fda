"""Bilinear upsampling from the BEV grid to mask pixels, corners aligned, and its adjoint.

The same numbers as torch's interpolate to a rounding. Columns are a small matrix product, rows are interpolated from
two neighbours each: an eighth of the time of interpolate on a CPU. The adjoint is two matrix products, which, unlike
the backward pass of interpolate on a card, always sum in the same order.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


class Upsampling:
    """Maps grids [M, h, w] to pixels [M, H, W], both float32; the identity where the sizes are equal.

    Args:
        source: (h, w).
        size: (H, W).
        device: where the grids are.
    """

    def __init__(self, source: Size, size: Size, device: torch.device) -> None:
        self.source, self.size, self.device = source, size, device
        position = torch.arange(size[0], dtype=torch.float32) * ((source[0] - 1) / max(size[0] - 1, 1))
        lower = position.int().clamp(max=source[0] - 1)
        self.lower = lower.to(device)  # [H] the row at or above each pixel
        self.upper = (lower + 1).clamp(max=source[0] - 1).to(device)  # [H] the row below
        self.share = (position - lower)[:, None].to(device)  # [H, 1] of the row below
        self.rows = _matrix(source[0], size[0]).to(device)  # [H, h]
        self.columns = _matrix(source[1], size[1]).to(device)  # [W, w]

    def __call__(self, grids: Tensor, out: Tensor, spare: Tensor) -> Tensor:
        """Upsample [M, h, w] into ``out`` [M, H, W], which is returned; ``spare`` is memory of its shape."""
        if self.source == self.size:
            return out.copy_(grids)
        wide = (grids.flatten(0, 1) @ self.columns.t()).view(len(grids), -1, self.size[1])  # [M, h, W]
        torch.index_select(wide, 1, self.lower, out=out)
        torch.index_select(wide, 1, self.upper, out=spare)
        return torch.lerp(out, spare, self.share, out=out)

    def adjoint(self, pixels: Tensor) -> Tensor:
        """What a gradient of the pixels [M, H, W] is for the grid: [M, h, w]."""
        if self.source == self.size:
            return pixels
        narrow = (pixels.flatten(0, 1) @ self.columns).view(len(pixels), -1, self.source[1])  # [M, H, w]
        return self.rows.t() @ narrow


def _matrix(source: int, size: int) -> Tensor:
    """Linear interpolation as float32 [size, source]."""
    unit = torch.eye(source)[:, None]
    return F.interpolate(unit, size=size, mode="linear", align_corners=True)[:, 0].t().contiguous()
