"""The losses on the device: a few weighted sums over dense tensors, for all decoders, samples and classes at once.

Weights are 0 where there is nothing to learn, so a class without instances gives zeros that still belong to the graph
of every prediction. All sums are in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pivotnet.criterion.matching import MaskComparison, mask_loss, mean_softplus, resize_masks


class _MaskLoss(torch.autograd.Function):
    """Loss of masks whose value is known already; the gradient is one expression over the pixels.

    With probability s, overlap o = sum s t and denominator d = sum s + sum t + 1 it is, per pixel,
    (s - t) / pixels + (o' / d - 2 t) / d * s (1 - s), where o' = 2 o + 1.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, probabilities: Tensor, targets: Tensor, loss: Tensor, overlap: Tensor, area: Tensor
    ) -> Tensor:
        """Args: logits, probabilities [A, M, HW]; targets 0/1 [M, HW]; loss, overlap and sum s + sum t, [A, M]."""
        ctx.save_for_backward(probabilities, targets, overlap, area + 1)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        probabilities, targets, overlap, denominator = ctx.saved_tensors
        gradient = gradients[0][..., None]
        per_pixel = gradient / probabilities.shape[-1]
        on_target = gradient * 2 / denominator[..., None]
        everywhere = gradient * ((2 * overlap + 1) / denominator.square())[..., None]
        result = torch.addcmul(everywhere, on_target, targets, value=-1)  # [A, M, HW]
        result.mul_(probabilities)
        result.addcmul_(result, probabilities, value=-1)
        result.addcmul_(per_pixel, probabilities)
        result.addcmul_(per_pixel, targets, value=-1)
        return result, None, None, None, None, None


def instance_mask_losses(logits: Tensor, targets: Tensor, comparison: MaskComparison, places: Tensor) -> Tensor:
    """Mask loss of each instance with its matched query.

    Args:
        logits: [D, B, Q, h, w].
        targets: float32 [B, C, G, H, W] 0/1.
        comparison: of the same logits and targets.
        places: integer [2, D, B, C, G], where each instance's query stands in [D, B, Q], and the pair of both in
            [D, B, Q, G]; any place where there is no query.

    Returns:
        float32 [D, B, C, G].
    """
    decoders = logits.shape[0]
    queries, pairs = places.flatten(1)
    rows = logits.flatten(0, 2).index_select(0, queries).unflatten(0, (decoders, -1))
    rows = resize_masks(rows, (targets.shape[-2], targets.shape[-1])).flatten(2)  # [D, BCG, HW]
    instances = targets.flatten(0, 2).flatten(1)  # [BCG, HW]
    area = comparison.area.flatten().index_select(0, queries).view(decoders, -1) + instances.sum(-1)
    sums = torch.stack([comparison.loss.flatten(), comparison.overlap.flatten()])
    loss, overlap = sums.index_select(1, pairs).view(2, decoders, -1)
    # These rows are a copy of ours that nobody needs any more: it becomes the probabilities in place.
    probabilities = rows.detach().sigmoid_()
    return _MaskLoss.apply(rows, probabilities, instances, loss, overlap, area).view(places.shape[1:])


def semantic_mask_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Mask loss of the semantic masks.

    Args:
        logits: [E, B, C, 2, h, w]; channel 0 takes no part.
        targets: float32 [B, C, H, W] 0/1.

    Returns:
        float32 [E, B * C].
    """
    size = (targets.shape[-2], targets.shape[-1])
    rows = resize_masks(logits[:, :, :, 1].flatten(1, 2), size).flatten(2)  # [E, BC, HW]
    classes = targets.flatten(0, 1).flatten(1)  # [BC, HW]
    with torch.no_grad():
        probabilities = rows.sigmoid()
        overlap, area = (probabilities * classes).sum(-1), probabilities.sum(-1)
        target_area = classes.sum(-1)
        softplus = mean_softplus(rows, probabilities.clone())
        loss = mask_loss(softplus, (rows * classes).sum(-1), overlap, area, target_area, rows.shape[-1])
    return _MaskLoss.apply(rows, probabilities, classes, loss, overlap, area + target_area)


def instance_scale(counts: Tensor) -> Tensor:
    """1 / max(1, mean number of instances a sample) of each class, over the samples of all ranks.

    Args:
        counts: int [B, C].

    Returns:
        float32 [C] on the device of ``counts``; one all-reduce, and nothing is read on the host.
    """
    mean = counts.float().mean(0)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(mean)
        mean = mean / torch.distributed.get_world_size()
    return mean.clamp(min=1).reciprocal()


def binary_cross_entropy(margins: Tensor, sides: Tensor) -> Tensor:
    """Cross entropy of two classes, elementwise.

    Args:
        margins: logit of the first class minus logit of the second.
        sides: -1 where the first class is right, +1 where the second is.
    """
    return F.softplus(sides * margins)
