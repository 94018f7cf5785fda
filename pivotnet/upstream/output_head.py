"""Upstream's PivotMapOutputHead by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pivotnet.config import MapConfig
from pivotnet.model.point_head import PointHead
from pivotnet.structures import Predictions
from pivotnet.upstream.settings import BASE, require


class PivotMapOutputHead(PointHead):
    """Features of the point queries -> Predictions."""

    def __init__(
        self,
        in_channel: int,
        num_queries: Sequence[int],
        tgt_shape: tuple[int, int],
        max_pieces: tuple[int, int, int],
        bev_channels: int = -1,
        ins_channel: int = 64,
    ) -> None:
        require("output_head", {"bev_channels": bev_channels}, {"bev_channels": in_channel})
        model = dataclasses.replace(BASE, hidden=in_channel, point_features=ins_channel)
        self.queries = tuple(num_queries)
        super().__init__(model, MapConfig(map_size=tgt_shape, max_points=max_pieces))

    def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        """{"line_features", "bev_features", ...} -> {"outputs": Predictions}; without masks outside of training."""
        lines = inputs["line_features"]
        points, point_logits = super().forward(lines.points, self.mean_coordinate_features())
        predictions = Predictions(lines.object_logits.float(), points, point_logits.float())
        predictions.extras = {"num_queries": self.queries}
        if lines.mask_logits is not None:
            size = tuple(inputs["bev_enc_features"][-1].shape[-2:])
            predictions.masks = lines.mask_logits.unflatten(-1, size)
            predictions.semantic_logits = self.semantic(inputs["bev_features"]).unflatten(-1, size)
        return {"outputs": predictions}
