"""Masks against target masks: mean cross entropy plus dice loss. Masks are predicted on the BEV grid (h x w) and
compared at the size of the targets (H x W), 40 times as many values. Letters in shapes: see pivotnet.structures; Qc
queries of one class."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def upsample(grids: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bilinear interpolation with aligned corners: [M, h, w] -> [M, H, W] for size = (H, W). As matrix products: their
    gradient, unlike that of F.interpolate on a GPU, is always summed in the same order."""
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
    matrices = [F.interpolate(unit, size=n, mode="linear", align_corners=True) for unit, n in zip(units, size)]
    return [matrix[:, 0].t().contiguous().to(device) for matrix in matrices]


def mask_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Loss of each mask, float32 [M]; logits: float32 [M, h, w], targets: float32 [M, H, W] 0/1."""
    logits, targets = upsample(logits, targets.shape[1:]).flatten(1), targets.flatten(1)
    probabilities = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
    overlap = (probabilities * targets).sum(1)
    return cross_entropy + 1 - (2 * overlap + 1) / (probabilities.sum(1) + targets.sum(1) + 1)


@torch.no_grad()
def all_mask_losses(masks: Tensor, targets: Tensor, num_queries: tuple[int, ...]) -> Tensor:
    """``mask_losses`` of every query with every instance of its class, float32 [D, B, Q, G], of masks float32 [D, B, Q,
    h, w] and targets float32 [B, C, G, H, W] 0/1. No query x instance copy of a mask is made: with logits x,
    probabilities p and a target t of 0 and 1, the mean cross entropy is mean(softplus(x)) - x.t / pixels, and the
    overlap of the dice loss is p.t. Upsampling is linear, so x.t is taken on the grid."""
    grid, size = masks.shape[-2:], targets.shape[-2:]
    targets_on_grid = on_grid(targets.flatten(0, 2), grid).view(*targets.shape[:3], -1)  # [B, C, G, hw]
    order, back = _class_by_class(len(masks), num_queries, masks.device)
    rows = masks.transpose(0, 1).flatten(1, 2).index_select(1, order)  # [B, R, h, w]
    counts = [len(masks) * queries for queries in num_queries]
    logits = upsample(rows.flatten(0, 1), size).view(*rows.shape[:2], -1)  # [B, R, HW]

    def products(rows: Tensor, targets: Tensor) -> Tensor:
        """[B, R, pixels] and [B, C, G, pixels] -> [B, R, G], with the targets of the row's class."""
        pairs = zip(rows.split(counts, 1), targets.unbind(1))
        return torch.cat([row @ target.transpose(1, 2) for row, target in pairs], 1)

    products_of_logits = products(rows.flatten(2), targets_on_grid)
    softplus = F.softplus(logits).mean(-1, keepdim=True)
    cross_entropy = torch.sub(softplus, products_of_logits, alpha=1 / size.numel())
    probabilities = logits.sigmoid_()
    overlap = products(probabilities, targets.flatten(3))
    target_areas = targets.flatten(3).sum(-1).unbind(1)  # of each class [B, G]
    areas = [area[:, None].expand(-1, count, -1) for area, count in zip(target_areas, counts)]
    dice = 1 - (2 * overlap + 1) / (probabilities.sum(-1, keepdim=True) + torch.cat(areas, 1) + 1)
    losses = (cross_entropy + dice).index_select(1, back)
    return losses.unflatten(1, (len(masks), -1)).transpose(0, 1)


@lru_cache(maxsize=16)
def _class_by_class(decoders: int, num_queries: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The R = D Q rows of queries of all decoders, sorted by class, and the way back: int64 [R] each."""
    labels = torch.arange(len(num_queries)).repeat_interleave(torch.tensor(num_queries)).repeat(decoders)
    order = labels.argsort(stable=True)
    return order.to(device), order.argsort().to(device)
