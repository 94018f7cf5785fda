"""The training loss: matching and all loss terms, with one round trip between device and host. Equal to upstream's
SetCriterion for one sample. For B samples every reduction is made per sample and averaged over them, with the
normaliser of a class taken over the samples of all ranks: R ranks of B samples equal one rank of R x B."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pivotnet.config import Config
from pivotnet.criterion.masks import all_mask_losses, mask_losses
from pivotnet.criterion.matching import ClassMatches, device_costs, match
from pivotnet.criterion.supervision import Supervision, supervise
from pivotnet.criterion.transfer import to_device, to_host
from pivotnet.errors import PivotNetError
from pivotnet.structures import Predictions, Targets

# upstream's names, in the order in which it prints them
TERMS = ("ins_msk_loss", "ins_obj_loss", "pts_loss", "collinear_pts_loss", "pt_logits_loss", "sem_msk_loss")


@dataclass
class CriterionResult:
    total: Tensor  # float32 scalar, the sum of the terms
    terms: dict[str, Tensor]  # float32 scalars, weighted, by upstream's names (TERMS); without gradient
    matches: list[ClassMatches]  # one of each class
    piggybacked: np.ndarray | None  # float32, the values of ``piggyback``


class Criterion(nn.Module):
    """Matches predictions with targets and measures their distance."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def forward(self, predictions: Predictions, targets: Targets, piggyback: Tensor | None = None) -> CriterionResult:
        """Total loss and its terms. ``predictions`` are of all decoders; masks are compared at the size of the target
        masks, in float32: call it outside autocast. ``targets`` are on their device, with ``host`` unless that is the
        CPU. ``piggyback`` is a small tensor that the caller wants on the host; it is part of the one copy.
        Raises PivotNetError: predictions without masks, masks on two grids, or another number of decoders than the
        weights are for."""
        masks, semantic_masks = self._checked(predictions)
        target_masks = targets.masks.float()
        losses = all_mask_losses(masks, target_masks, self.config.map.num_queries)
        costs = device_costs(predictions.object_logits, losses, self.config.criterion)
        more = [] if piggyback is None else [piggyback]
        host_costs, host_points, *piggybacked = to_host([costs, predictions.points, *more])
        host = targets.host or targets
        matches = match(host_costs, host_points, host, self.config.criterion, self.config.map)
        supervision = supervise(matches, host, self.config)
        names = [field.name for field in dataclasses.fields(Supervision)]
        moved = Supervision(*to_device([getattr(supervision, name) for name in names], masks.device))

        normaliser = class_normaliser(targets.counts)
        of_masks = self._mask_terms(masks, semantic_masks, target_masks, targets.semantic, moved, normaliser)
        terms = torch.cat([*of_masks, *self._point_terms(predictions, moved, normaliser)])
        named = dict(zip(("ins_msk_loss", "sem_msk_loss", *TERMS[1:5]), terms.detach().unbind()))
        named = {name: named[name] for name in TERMS}
        return CriterionResult(terms.sum(), named, matches, piggybacked[0] if piggybacked else None)

    def _mask_terms(
        self,
        masks: Tensor,  # [D, B, Q, h, w]
        semantic_masks: Tensor,  # [E, B, C, h, w]
        targets: Tensor,  # [B, C, G, H, W]
        semantic_targets: Tensor,  # [B, C, H, W]
        supervision: Supervision[Tensor],
        normaliser: Tensor,  # [C]
    ) -> list[Tensor]:
        """The terms of the instance masks and of the semantic masks, [1] each."""
        s = supervision
        logits = torch.cat([masks.flatten(0, 2).index_select(0, s.predicted_masks), semantic_masks.flatten(0, 2)])
        semantic = [semantic_targets.float().flatten(0, 1)] * len(semantic_masks)  # the same for all BEV decoders
        targets = torch.cat([targets.flatten(0, 2).index_select(0, s.target_masks), *semantic])
        losses = mask_losses(logits, targets)
        pairs, semantic_losses = losses.split([len(s.pair_weights), s.semantic_weights.numel()])
        pairs = pairs * s.pair_weights / normaliser.index_select(0, s.pair_labels)
        return [pairs.sum()[None], (semantic_losses * s.semantic_weights.flatten()).sum()[None]]

    def _point_terms(
        self, predictions: Predictions, supervision: Supervision[Tensor], normaliser: Tensor
    ) -> list[Tensor]:
        """The terms of the objects [1], of pivots and of the points between them [2], of the points' validity [1]."""
        s = supervision
        objects = _cross_entropy(predictions.object_logits, s.object_labels) * s.object_weights
        sizes = [own.stop - own.start for own in self.config.map.point_slices]
        normaliser = torch.cat([one.expand(size) for one, size in zip(normaliser.split(1), sizes)])  # [T]
        distances = (predictions.points - s.points).abs().sum(-1) / normaliser  # [D, B, T]
        validity = _cross_entropy(predictions.point_logits, s.point_labels) / normaliser * s.point_label_weights
        return [objects.sum()[None], (distances * s.point_weights).flatten(1).sum(1), validity.sum()[None]]

    def _checked(self, predictions: Predictions) -> tuple[Tensor, Tensor]:
        """Instance mask logits [D, B, Q, h, w] and those of the semantic masks that are supervised, [E, B, C, h, w]."""
        masks, semantic_logits = predictions.masks, predictions.semantic_logits
        if masks is None or semantic_logits is None:
            raise PivotNetError("predictions have no masks to train on: run the network with final_only=False")
        weights = self.config.criterion
        found = (len(masks), len(semantic_logits))
        wanted = (len(weights.decoder_weights), len(weights.bev_weights))
        if found != wanted:
            raise PivotNetError(
                f"predictions have {found[0]} line decoders and {found[1]} BEV decoders, but there are loss weights "
                f"for {wanted[0]} and {wanted[1]}: make decoder_weights and bev_weights as long as the network is deep"
            )
        if masks.shape[-2:] != semantic_logits.shape[-2:]:
            raise PivotNetError(
                f"instance masks are {tuple(masks.shape[-2:])} cells large, semantic masks "
                f"{tuple(semantic_logits.shape[-2:])}: predict both on the same grid"
            )
        return masks, semantic_logits.select(3, 1)


def class_normaliser(counts: Tensor) -> Tensor:
    """max(1, mean number of instances a sample) of each class over the samples of all ranks, int [B, C] -> float32 [C];
    one all-reduce, and nothing is read on the host."""
    mean = counts.mean(0, dtype=torch.float32)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(mean)
        mean = mean / torch.distributed.get_world_size()
    return mean.clamp(min=1)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Elementwise: logits [..., 2], labels int64 [...]."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)
