"""Upstream's PointMask2formerINSDecoder by name."""

from __future__ import annotations

from typing import Any, Optional

from torch import nn

from pivotnet.errors import PivotNetError
from pivotnet.model.line_decoder import LineDecoder, sine_position
from pivotnet.upstream.settings import line_config


class PointMask2formerINSDecoder(nn.Module):
    """BEV features -> features and logits of the point queries, of every layer in training, of the last otherwise."""

    def __init__(
        self, decoder_ids: tuple[int, ...] = (5,), tgt_shape: Optional[tuple[int, int]] = None, **kwargs: Any
    ) -> None:
        super().__init__()
        model, map_config = line_config(kwargs)
        if list(decoder_ids) != list(range(model.line_decoder_layers)) or tgt_shape is not None:
            raise PivotNetError(
                f"ins_decoder has decoder_ids={list(decoder_ids)} and tgt_shape={tgt_shape}: the port supports all "
                f"{model.line_decoder_layers} decoders on the BEV grid only; correct the config"
            )
        self.bev_decoder = LineDecoder(model, map_config)
        self.bev_size, self.hidden = model.bev_size, model.hidden

    def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """{"bev_features": [E, B, N, C], ...} -> {"line_features": LineFeatures}."""
        size = tuple(inputs["bev_enc_features"][-1].shape[-2:])
        bev = inputs["bev_features"][-1]
        if size != self.bev_size:
            self.bev_size = size
            self.bev_decoder.position = sine_position(size, self.hidden).to(bev.device)
        return {"line_features": self.bev_decoder(bev, final_only=not self.training)}
