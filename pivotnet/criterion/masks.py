"""Masks against target masks: all queries with all instances of their class, and the gradient of the matched pairs.

Masks come on the BEV grid and are compared at the size of the targets, where they are 40 times as large. So the large
ones exist only for a moment: a CPU takes as many at a time as stay in its cache, a card takes a class at a time, and
what outlives a step's forward pass are sums, and gradients on the grid. No query x target copy of a mask is made: the
mean cross entropy of logits x with a target t in {0, 1} is mean(softplus(x)) - x.t / pixels, and the overlap of the
dice loss is sigmoid(x).t. Since x is linear in the grid, x.t is computed there.

The semantic mask of a class takes part as one more target of the class, the semantic logits as more rows.

Letters in shapes: see pivotnet.structures; Qc queries of one class, R = D Q + E C rows, which are, class by class, the
queries of all line decoders and the semantic masks of all BEV decoders; K pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pivotnet import device as devices
from pivotnet.criterion.upsampling import Upsampling


@dataclass
class MaskComparison:
    """Every mask against every target of its class: the instances, and last the semantic mask."""

    loss: Tensor  # [B, R, G + 1] cross entropy + dice
    overlap: Tensor  # [B, R, G + 1] sum of probability x target
    denominator: Tensor  # [B, R, G + 1] sum of the probabilities + sum of the target + 1

    def instance_losses(self, decoders: int, num_queries: tuple[int, ...]) -> Tensor:
        """Loss of every query with every instance of its class, [D, B, Q, G]."""
        bev_decoders = (self.loss.shape[1] - decoders * sum(num_queries)) // len(num_queries)
        rows = self.loss.split([decoders * n + bev_decoders for n in num_queries], dim=1)
        classes = [row[:, : decoders * n, :-1].unflatten(1, (decoders, n)) for row, n in zip(rows, num_queries)]
        return torch.cat(classes, 2).transpose(0, 1)


def mean_softplus(logits: Tensor, probabilities: Tensor) -> Tensor:
    """Mean over the last axis of softplus(x) = max(x, 0) - log(sigmoid(|x|)); not differentiable.

    Logarithms are slow on a CPU: one is taken of the product of up to 64 factors, which all lie in [1/2, 1].

    Args:
        logits: float32 [..., N].
        probabilities: float32 [..., N], their sigmoid; overwritten, as the memory to work in.

    Returns:
        float32 [...].
    """
    pixels = logits.shape[-1]
    group = max(n for n in range(1, 65) if pixels % n == 0)
    factors = probabilities.sub_(0.5).abs_().add_(0.5)  # sigmoid(|x|), exact to a rounding
    logs = factors.unflatten(-1, (-1, group)).prod(-1).log_().sum(-1)
    return (torch.clamp_min(logits, 0, out=probabilities).sum(-1) - logs) / pixels


@torch.no_grad()
def compare_masks(
    masks: Tensor, semantic: Tensor, targets: Tensor, num_queries: tuple[int, ...], upsampling: Upsampling
) -> MaskComparison:
    """Compare all masks with all targets of their class.

    Args:
        masks: float32 [D, B, Q, h, w].
        semantic: float32 [E, B, C, h, w].
        targets: float32 [B, C, G + 1, H, W] 0/1, the semantic mask last.
        num_queries: queries of each class, C numbers that sum to Q.
        upsampling: from (h, w) to (H, W).
    """
    pixels = upsampling.size[0] * upsampling.size[1]
    on_grid = upsampling.adjoint(targets.flatten(0, 2)).view(*targets.shape[:3], -1)  # [B, C, G + 1, hw]
    products, sums = [], []
    for c, queries in enumerate(masks.transpose(0, 1).split(num_queries, dim=2)):
        rows = torch.cat([queries.flatten(1, 2), semantic[:, :, c].transpose(0, 1)], 1)  # [B, Rc, h, w]
        products.append(torch.bmm(rows.flatten(2), on_grid[:, c].transpose(1, 2)))
        sums.append(_sums(rows, targets[:, c].flatten(2), upsampling))
    overlap, area, softplus = (torch.cat(parts, 1) for parts in zip(*sums))  # [B, R, G + 1], [B, R, 1], [B, R, 1]
    target_area = targets.flatten(3).sum(-1).unbind(1)  # of each class [B, G + 1]
    of_rows = torch.cat([a[:, None].expand(-1, p.shape[1], -1) for a, p in zip(target_area, products)], 1)
    denominator = area + of_rows + 1
    loss = softplus - torch.cat(products, 1) / pixels + 1 - (2 * overlap + 1) / denominator
    return MaskComparison(loss, overlap, denominator)


def _sums(rows: Tensor, targets: Tensor, upsampling: Upsampling) -> tuple[Tensor, ...]:
    """Sums over the pixels of rows [B, M, h, w] and targets [B, n, HW].

    Returns:
        overlaps [B, M, n], sums of the probabilities [B, M, 1], mean softplus [B, M, 1].
    """
    at_once = _rows_at_once(rows, upsampling)
    if at_once < rows.shape[1] and len(rows) > 1:  # a sample at a time
        samples = [_sums(row, target, upsampling) for row, target in zip(rows.split(1), targets.split(1))]
        return tuple(torch.cat(parts) for parts in zip(*samples))
    found = []
    for piece, x, chance, spare in _pieces(rows.flatten(0, 1), at_once * len(rows), upsampling):
        upsampling(piece, x, spare)
        torch.sigmoid(x, out=chance)
        x, chance = (tensor.view(len(rows), -1, targets.shape[-1]) for tensor in (x, chance))
        overlap, area = torch.bmm(chance, targets.transpose(1, 2)), chance.sum(-1, keepdim=True)
        found.append((overlap, area, mean_softplus(x, chance)[..., None]))
    return found[0] if len(found) == 1 else tuple(torch.cat(parts, 1) for parts in zip(*found))


def pair_losses(
    rows: Tensor, targets: Tensor, comparison: MaskComparison, places: Tensor, upsampling: Upsampling
) -> Tensor:
    """Loss of matched pairs.

    Args:
        rows: float32 [D B Q + E B C, h, w], masks and semantic masks in the order of their predictions.
        targets: float32 [B, C, G + 1, H, W] 0/1.
        comparison: of the same.
        places: int [3, K], of each pair: of its mask in ``rows``, of itself in [B, R, G + 1], of its target in
            [B, C, G + 1].
        upsampling: from (h, w) to (H, W).

    Returns:
        float32 [K].
    """
    chosen = rows.index_select(0, places[0])
    known = torch.stack([comparison.loss, comparison.overlap, comparison.denominator]).flatten(1)
    loss, overlap, denominator = known.index_select(1, places[1])
    with torch.no_grad():
        gradient = _gradient(chosen, targets.flatten(0, 2).flatten(1), places[2], overlap, denominator, upsampling)
    return _KnownLoss.apply(chosen, loss, gradient)


class _KnownLoss(torch.autograd.Function):
    """A loss a row whose value and gradient are known already."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        """Args: rows and their gradient [K, h, w]; loss [K]."""
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][:, None, None] * ctx.saved_tensors[0], None, None


def _gradient(
    rows: Tensor, targets: Tensor, which: Tensor, overlap: Tensor, denominator: Tensor, upsampling: Upsampling
) -> Tensor:
    """Gradient of the loss of each row [K, h, w] with the target [., HW] that ``which`` [K] names.

    With probability s, overlap o and denominator d it is, per pixel, (s - t) / pixels + (o' / d - 2 t) / d * s (1 - s),
    where o' = 2 o + 1.
    """
    pixels = targets.shape[-1]
    on_target = (2 / denominator)[:, None]
    everywhere = (2 * overlap + 1)[:, None] / denominator.square()[:, None]
    found, start = [], 0
    for piece, x, chance, spare in _pieces(rows, _rows_at_once(rows[None], upsampling), upsampling):
        here = slice(start, start + len(piece))
        start = here.stop
        upsampling(piece, x, spare)
        chance, x, result = (tensor.flatten(1) for tensor in (torch.sigmoid(x, out=chance), x, spare))
        target = torch.index_select(targets, 0, which[here], out=x)
        torch.addcmul(everywhere[here], on_target[here], target, value=-1, out=result)
        result.mul_(chance)
        result.addcmul_(result, chance, value=-1)
        result.add_(chance, alpha=1 / pixels).sub_(target, alpha=1 / pixels)
        on_grid = upsampling.adjoint(spare)
        found.append(on_grid.clone() if on_grid is spare else on_grid)
    return found[0] if len(found) == 1 else torch.cat(found)


def _rows_at_once(rows: Tensor, upsampling: Upsampling) -> int:
    """How many rows of [B, M, h, w] to upsample at a time, of each sample."""
    row_bytes = 3 * upsampling.size[0] * upsampling.size[1] * rows.element_size()
    return min(rows.shape[1], devices.rows_at_once(rows.device, row_bytes) or rows.shape[1])


def _pieces(rows: Tensor, at_once: int, upsampling: Upsampling) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Parts of rows [M, h, w], as [n, h, w], each with three times memory for its pixels, [n, H, W].

    The memory serves all parts: fresh memory costs a CPU more than the arithmetic does.
    """
    pixels = upsampling.size[0] * upsampling.size[1]
    memory = rows.new_empty(3, at_once * pixels)
    for piece in rows.split(at_once):
        x, chance, spare = memory[:, : len(piece) * pixels].unflatten(1, (-1, *upsampling.size))
        yield piece, x, chance, spare
