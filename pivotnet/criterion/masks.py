"""Masks against target masks: mean cross entropy plus dice loss.

Masks are predicted on the BEV grid (h x w) and compared at the size of the targets (H x W), 40 times as many values.

Letters in shapes: see pivotnet.structures; Qc queries of one class.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def upsample(grids: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bilinear interpolation with aligned corners: [M, h, w] -> [M, H, W] for size = (H, W).

    As matrix products: their gradient, unlike that of F.interpolate on a card, is always summed in the same order.
    """
    if grids.shape[1:] == size:
        return grids
    rows, columns = _interpolation(grids.shape[1:], size, grids.device)
    return rows @ grids @ columns.t()


def on_grid(masks: Tensor, size: tuple[int, ...]) -> Tensor:
    """The adjoint of ``upsample``: [M, H, W] -> [M, h, w] for size = (h, w), so that upsample(x).m = x.on_grid(m)."""
    if masks.shape[1:] == size:
        return masks
    rows, columns = _interpolation(size, masks.shape[1:], masks.device)
    return rows.t() @ (masks @ columns)


@lru_cache(maxsize=16)
def _interpolation(source: tuple[int, ...], size: tuple[int, ...], device: torch.device) -> list[Tensor]:
    """Linear interpolation with aligned ends as a matrix for each axis, float32 [size, source]."""
    units = [torch.eye(length)[:, None] for length in source]
    matrices = [
        F.interpolate(unit, size=length, mode="linear", align_corners=True)[:, 0].t()
        for unit, length in zip(units, size)
    ]
    return [matrix.contiguous().to(device) for matrix in matrices]


def mask_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Loss of each mask with its target.

    Args:
        logits: float32 [M, h, w].
        targets: float32 [M, H, W] 0/1.

    Returns:
        float32 [M].
    """
    logits, targets = upsample(logits, targets.shape[1:]).flatten(1), targets.flatten(1)
    probabilities = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
    overlap = (probabilities * targets).sum(1)
    return cross_entropy + 1 - (2 * overlap + 1) / (probabilities.sum(1) + targets.sum(1) + 1)


@torch.no_grad()
def all_mask_losses(masks: Tensor, targets: Tensor, num_queries: tuple[int, ...]) -> Tensor:
    """``mask_losses`` of every query with every instance of its class.

    No query x instance copy of a mask is made: with logits x, probabilities p and a target t of 0 and 1, the mean
    cross entropy is mean(softplus(x)) - x.t / pixels, and the overlap of the dice loss is p.t. Upsampling is linear, so
    x.t is taken on the grid.

    Args:
        masks: float32 [D, B, Q, h, w].
        targets: float32 [B, C, G, H, W] 0/1.
        num_queries: Qc of each class.

    Returns:
        float32 [D, B, Q, G].
    """
    grid, size = masks.shape[-2:], targets.shape[-2:]
    targets_on_grid = on_grid(targets.flatten(0, 2), grid).view(*targets.shape[:3], -1)  # [B, C, G, hw]
    losses = []
    for label, queries in enumerate(masks.transpose(0, 1).split(num_queries, dim=2)):
        queries = queries.flatten(1, 2)  # [B, D Qc, h, w]
        products = queries.flatten(2) @ targets_on_grid[:, label].transpose(1, 2)  # [B, D Qc, G]
        logits = upsample(queries.flatten(0, 1), size).view(*queries.shape[:2], -1)  # [B, D Qc, HW]
        target = targets[:, label].flatten(2).transpose(1, 2)  # [B, HW, G]
        cross_entropy = F.softplus(logits).mean(-1, keepdim=True) - products / size.numel()
        probabilities = logits.sigmoid_()
        areas = probabilities.sum(-1, keepdim=True) + target.sum(1, keepdim=True)
        dice = 1 - (2 * (probabilities @ target) + 1) / (areas + 1)
        losses.append((cross_entropy + dice).unflatten(1, (len(masks), -1)))
    return torch.cat(losses, 2).transpose(0, 1)
