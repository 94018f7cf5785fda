"""Upstream's BEV decoders by name: DeformTransformerBEVEncoder (PivotNet) and TransformerBEVDecoder (BeMapNet)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pivotnet.data.projection import project_bev_grid
from pivotnet.errors import PivotNetError
from pivotnet.model.bev_encoder import BevEncoder
from pivotnet.upstream.settings import bev_config


class DeformTransformerBEVEncoder(nn.Module):
    """Camera features -> BEV features of every decoder layer."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.model, self.map, self.image_shape = bev_config(kwargs)
        self.bev_encoder = BevEncoder(self.model)

    def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Takes im_bkb_features and, where the data loader projected the BEV grid, extra_infos' reference_points and
        reference_valid; else extrinsic and intrinsic, which costs a host wait.

        Returns:
            bev_features [E, B, N, C], and upstream's view of it: bev_enc_features, E times [B, C, rows, columns].
        """
        infos = inputs["extra_infos"]
        points, valid = infos.get("reference_points"), infos.get("reference_valid")
        if points is None or valid is None:
            if infos.get("do_flip") is not None and torch.as_tensor(infos["do_flip"]).any():
                raise PivotNetError("PivotNet's images must not be flipped (do_flip): switch the augmentation off")
            points, valid = self._project(inputs["extrinsic"], inputs["intrinsic"])
        features = inputs["im_bkb_features"]
        device = features[0].device
        bev = self.bev_encoder(features, points.to(device), valid.to(device))
        maps = bev.transpose(2, 3).unflatten(3, self.model.bev_size)
        return {"bev_features": bev, "bev_enc_features": list(maps.unbind())}

    def _project(self, extrinsic: Tensor, intrinsic: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 6, 4, 4], [B, 6, 3, 3] -> reference points [B, N, 2], validity [B, N], on the host."""
        pairs = [
            project_bev_grid(one, other, self.model.bev_size, self.map, self.image_shape)
            for one, other in zip(extrinsic.cpu(), intrinsic.cpu())
        ]
        return torch.stack([points for points, _ in pairs]), torch.stack([valid for _, valid in pairs])


class TransformerBEVDecoder(nn.Module):
    """Upstream's transformer around the features under ``key``; its module imports no compiled operator."""

    def __init__(self, key: str = "im_bkb_features", **kwargs: Any) -> None:
        super().__init__()
        from mapmaster.models.bev_decoder.transformer import Transformer  # here: its package imports this module

        self.key = key
        self.bev_encoder = Transformer(**kwargs)

    def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Last features of ``key`` [B*6, C, h, w] -> {"bev_enc_features": E times [B, C, rows, columns]}."""
        cameras = {name: inputs.get(name) for name in ("extrinsic", "intrinsic", "ida_mats")}
        cameras["do_flip"] = inputs["extra_infos"].get("do_flip")
        level = inputs[self.key][-1].unflatten(0, inputs["images"].shape[:2])  # [B, 6, C, h, w]
        side_by_side = level.permute(0, 2, 3, 1, 4).flatten(3)
        _, _, maps = self.bev_encoder(side_by_side, cameras_info=cameras)
        return {"bev_enc_features": list(maps)}
