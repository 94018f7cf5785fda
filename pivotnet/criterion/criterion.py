"""The training loss: matching and all loss terms, with one round trip between device and host.

Equal to upstream's SetCriterion for one sample. For B samples every reduction is made per sample and averaged over
them, with the normaliser of a class taken over the samples of all ranks: R ranks of B samples equal one rank of R x B.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pivotnet.config import Config
from pivotnet.criterion.losses import binary_cross_entropy, instance_scale
from pivotnet.criterion.masks import compare_masks, pair_losses
from pivotnet.criterion.matching import ClassMatches, device_costs, match
from pivotnet.criterion.supervision import Supervision, supervise
from pivotnet.criterion.transfer import to_device, to_host
from pivotnet.criterion.upsampling import Upsampling
from pivotnet.errors import PivotNetError
from pivotnet.structures import Predictions, Targets

# upstream's names, in the order in which it prints them
TERMS = ("ins_msk_loss", "ins_obj_loss", "pts_loss", "collinear_pts_loss", "pt_logits_loss", "sem_msk_loss")


@dataclass
class CriterionResult:
    """What ``Criterion`` returns."""

    total: Tensor  # float32 scalar, the sum of the terms
    terms: dict[str, Tensor]  # float32 scalars, weighted, by upstream's names (TERMS); without gradient
    matches: list[ClassMatches]  # one of each class
    carried: np.ndarray | None  # float32, the values of ``carry``


class Criterion(nn.Module):
    """Matches predictions with targets and measures how far they are apart.

    Args:
        config: class sizes, mask size, and the weights of costs, terms and decoders.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self._upsampling: Upsampling | None = None

    def forward(self, predictions: Predictions, targets: Targets, carry: Tensor | None = None) -> CriterionResult:
        """Total loss and its terms.

        Args:
            predictions: of all decoders; any floating type, the loss is computed in float32 outside autocast, at the
                size of the target masks.
            targets: on the device of the predictions, with ``host`` unless that is the CPU.
            carry: a small tensor that the caller wants on the host; it rides along in the one copy.

        Raises:
            PivotNetError: predictions without masks, masks on two grids, or another number of decoders than the
                weights are for.
        """
        device = predictions.points.device
        masks, semantic = self._checked(predictions)
        num_queries = self.config.map.num_queries
        with torch.autocast(device.type, enabled=False):
            scale = instance_scale(targets.counts)
            # [B, C, G + 1, H, W], the semantic mask last
            target_masks = torch.cat([targets.masks, targets.semantic[:, :, None]], 2).float()
            masks, semantic = masks.float(), semantic.float()
            upsampling = self._upsampled(masks, target_masks)
            comparison = compare_masks(masks, semantic, target_masks, num_queries, upsampling)
            mask_losses = comparison.instance_losses(len(masks), num_queries)
            costs = device_costs(predictions.object_logits, mask_losses, self.config.criterion)
            down = [costs, predictions.points] + ([] if carry is None else [carry])
            host_costs, host_points, *carried = to_host(down)
            host = targets.host or targets
            matches = match(host_costs, host_points, host, self.config.criterion, self.config.map)
            supervision = supervise(matches, host, self.config)
            names = [field.name for field in dataclasses.fields(Supervision)]
            goal: Supervision[Tensor] = Supervision(*to_device([getattr(supervision, name) for name in names], device))

            rows = torch.cat([masks.flatten(0, 2), semantic.flatten(0, 2)])
            pairs = pair_losses(rows, target_masks, comparison, goal.pair_places.int(), upsampling)
            terms = self._terms(predictions, goal, scale, pairs)
            total = terms.sum()
        return CriterionResult(
            total, dict(zip(TERMS, terms.detach().unbind())), matches, carried[0] if carried else None
        )

    def _terms(
        self,
        predictions: Predictions,
        goal: Supervision[Tensor],
        scale: Tensor,  # [C]
        pairs: Tensor,  # [K] mask losses
    ) -> Tensor:
        """The weighted terms [6], in the order of TERMS."""
        sizes = [n * p for n, p in zip(self.config.map.num_queries, self.config.map.max_points)]
        point_scale = torch.cat([one.expand(n) for one, n in zip(scale.split(1), sizes)])  # [T]
        apart = (predictions.points.float() - goal.points).abs().sum(-1)  # [D, B, T]
        apart = (apart * point_scale * goal.point_weights).flatten(1).sum(1)  # [2]
        object_logits, point_logits = predictions.object_logits.float(), predictions.point_logits.float()
        objects = binary_cross_entropy(object_logits[..., 0] - object_logits[..., 1], goal.object_sides)
        pivots = binary_cross_entropy(point_logits[..., 1] - point_logits[..., 0], goal.point_sides)
        masks = (pairs * goal.pair_weights).sum(-1)  # [C + 1]
        rest = [
            (masks[:-1] * scale).sum(),
            (objects * goal.object_weights).sum(),
            (pivots * point_scale * goal.point_logit_weights).sum(),
            masks[-1],
        ]
        return torch.cat([torch.stack(rest[:2]), apart, torch.stack(rest[2:])])

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
        return masks, semantic_logits[:, :, :, 1]

    def _upsampled(self, logits: Tensor, targets: Tensor) -> Upsampling:
        """The way from the logits' size to the targets'; its constants are kept from step to step."""
        source, size = ((tensor.shape[-2], tensor.shape[-1]) for tensor in (logits, targets))
        kept = self._upsampling
        if kept is None or (kept.source, kept.size, kept.device) != (source, size, logits.device):
            kept = self._upsampling = Upsampling(source, size, logits.device)
        return kept
