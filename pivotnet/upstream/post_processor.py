"""Upstream's PivotMapPostProcessor by name: the loss in training, polylines and masks otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Optional, Union

import numpy as np
import torch
from torch import Tensor, nn

from pivotnet.config import Config
from pivotnet.criterion.criterion import Criterion
from pivotnet.data.targets import build_targets
from pivotnet.evaluation.postprocess import draw_mask, postprocess
from pivotnet.structures import Predictions, Targets
from pivotnet.upstream.settings import BASE, criterion_config, map_config

Conf = Mapping[str, Any]


class PivotMapPostProcessor(nn.Module):
    """Predictions -> loss and its terms (training), or results and masks as upstream saves them."""

    def __init__(
        self,
        criterion_conf: Conf,
        matcher_conf: Conf,
        pivot_conf: Conf,
        map_conf: Conf,
        sem_loss_conf: Conf,
        no_object_coe: float = 1.0,
        collinear_pts_coe: float = 1.0,
        coe_endpts: float = 0.0,
    ) -> None:
        super().__init__()
        weights = criterion_config(
            criterion_conf, matcher_conf, sem_loss_conf, no_object_coe, collinear_pts_coe, coe_endpts
        )
        pieces = tuple(pivot_conf["max_pieces"])
        self.loss = Criterion(Config("upstream", BASE, map_config(map_conf, pieces), weights))
        # upstream's checkpoints carry its class weights under these names
        self.criterion = nn.Module()
        self.criterion.register_buffer("empty_weight", torch.tensor([1.0, no_object_coe]))
        self.criterion.register_buffer("collinear_pt_weight", torch.tensor([collinear_pts_coe, 1.0]))

    def forward(self, outputs: Predictions, targets: Optional[Union[Targets, dict[str, Any]]] = None) -> Any:
        """Training: (loss, {term: loss}). Otherwise: (results, masks), one a sample.

        Args:
            outputs: of the network.
            targets: collated by the port's data set, or upstream's dict of one sample.
        """
        config = self.loss.config
        queries = (outputs.extras or {}).get("num_queries", config.map.num_queries)
        if queries != config.map.num_queries:
            config = dataclasses.replace(config, map=dataclasses.replace(config.map, num_queries=queries))
            self.loss = Criterion(config)  # it keeps constants on the device from step to step
        if not self.training:
            return _results(outputs, config)
        if not isinstance(targets, Targets):
            targets = build_targets([_sample(targets or {})], config)
        moved = targets.to(outputs.points.device, non_blocking=True)
        result = self.loss(outputs, moved)
        return result.total, result.terms


def _sample(targets: Mapping[str, Any]) -> tuple[np.ndarray, dict[int, np.ndarray], dict[int, np.ndarray]]:
    """build_targets' input from upstream's dict: masks [1, C, rows, columns], points and lengths by class, [1, ...]."""
    masks: Tensor = targets["masks"]
    points, lengths = (
        {kind: np.asarray(tensor[0].cpu()) for kind, tensor in targets[name].items()}
        for name in ("points", "valid_len")
    )
    return np.asarray(masks[0].cpu()), points, lengths


def _results(outputs: Predictions, config: Config) -> tuple[list[dict[str, list]], list[np.ndarray]]:
    """Lists begin with a placeholder, because the ids in the masks begin with 1; labels begin with 1 too."""
    samples = postprocess(outputs, config.map)
    results = [
        {
            "map": [None, *sample.points],
            "confidence_level": [-1, *sample.scores.tolist()],
            "pred_label": [0, *(sample.labels + 1).tolist()],
        }
        for sample in samples
    ]
    return results, [draw_mask(sample, config.map) for sample in samples]
