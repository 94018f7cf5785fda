"""Upstream's backbones by name: ResNetBackbone, EfficientNetBackbone, SwinTRBackbone.

Each takes the images of a batch and returns its last ``ret_layers`` features; with ``fpn_kwarg`` (BeMapNet) they go
through upstream's own BiFPN. Parameters have upstream's names and order.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pivotnet.config import BACKBONES, ModelConfig
from pivotnet.errors import PivotNetError
from pivotnet.model.backbone.efficientnet import EfficientNet
from pivotnet.model.backbone.pretrained import load_pretrained
from pivotnet.model.backbone.resnet import ResNet
from pivotnet.model.backbone.swin import SwinTransformer
from pivotnet.model.ops.sync_batch_norm import SyncBatchNorm, convert_sync_batch_norm
from pivotnet.upstream.settings import require

WITHOUT_WEIGHTS = "PIVOTNET_BACKBONE_WEIGHTS"  # "none": start from random backbones where no weight file is
STRIDE_8_BLOCK = 4  # EfficientNet-B0's last block of stride 8
Options = Mapping[str, Any]
Size = tuple[int, int]


class _Backbone(nn.Module):
    """Images -> {"im_bkb_features": features, "im_nek_features": what BiFPN makes of them, or None}."""

    def __init__(
        self, bkb: nn.Module, name: str, weights: Any, fpn: Optional[Options], up_shape: Optional[Size]
    ) -> None:
        super().__init__()
        self.bkb = bkb
        self.fpn = None if fpn is None else _bifpn(fpn)
        self.up_shape = up_shape
        if weights:
            _load_weights(self, name, Path(weights))

    def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """``inputs["images"]``: float32 [B, 6, 3, height, width], normalised."""
        features = list(self.bkb(inputs["images"].flatten(0, 1)))  # [B*6, C, h, w] each
        neck: Optional[list[Tensor]] = None
        if self.fpn is not None:
            neck = self.fpn(features)
        elif self.up_shape is not None:
            neck = [torch.cat([_upsample(level, self.up_shape) for level in features], dim=1)]
        return {"im_bkb_features": features, "im_nek_features": neck}


def _load_weights(backbone: nn.Module, name: str, path: Path) -> None:
    """Upstream requires the file, so that nobody starts without it unawares."""
    if path.is_file():
        load_pretrained(backbone, name, path)
    elif os.environ.get(WITHOUT_WEIGHTS) != "none":
        raise PivotNetError(
            f"the backbone file {path.resolve()} is missing: download it from {BACKBONES[name].url}, or "
            f"set {WITHOUT_WEIGHTS}=none to start with a random backbone (it then learns slower and less)"
        )


class ResNetBackbone(_Backbone):
    """ResNet-50."""

    def __init__(
        self,
        bkb_kwargs: Options,
        fpn_kwarg: Optional[Options] = None,
        up_shape: Optional[Size] = None,
        ret_layers: int = 1,
    ) -> None:
        require("im_backbone", bkb_kwargs, {"depth": 50, "num_stages": 4, "style": "pytorch", "norm_eval": True})
        bkb = ResNet(bkb_kwargs["with_cp"], outputs=ret_layers)
        for number in range(bkb_kwargs["frozen_stages"] + 1):
            parts = [bkb.get_submodule(f"layer{number}")] if number else [bkb.conv1, bkb.bn1]
            for part in parts:
                part.requires_grad_(False)
        super().__init__(bkb, "res50", bkb_kwargs.get("init_cfg", {}).get("checkpoint"), fpn_kwarg, up_shape)


class EfficientNetBackbone(_Backbone):
    """EfficientNet-B0."""

    def __init__(
        self,
        bkb_kwargs: Options,
        fpn_kwarg: Optional[Options] = None,
        up_shape: Optional[Size] = None,
        ret_layers: int = 1,
    ) -> None:
        require("im_backbone", bkb_kwargs, {"model_name": "efficientnet-b0", "in_channels": 3, "out_stride": 32})
        bkb = EfficientNet(ModelConfig().drop_connect, bkb_kwargs["with_cp"])
        blocks: Any = (STRIDE_8_BLOCK, *bkb.feature_blocks)
        bkb.feature_blocks = blocks[-ret_layers:]
        if bkb_kwargs.get("norm_layer") is nn.SyncBatchNorm:
            convert_sync_batch_norm(bkb)
        super().__init__(bkb, "effb0", bkb_kwargs.get("weights_path"), fpn_kwarg, up_shape)


class SwinTRBackbone(_Backbone):
    """Swin-T."""

    def __init__(
        self,
        bkb_kwargs: Options,
        fpn_kwarg: Optional[Options] = None,
        up_shape: Optional[Size] = None,
        ret_layers: int = 1,
    ) -> None:
        require("im_backbone", bkb_kwargs, {"arch": "tiny", "shift_mode": 0, "window_size": 7, "ape": False})
        stages = tuple(bkb_kwargs["out_indices"])[-ret_layers:]
        rate = bkb_kwargs.get("drop_path_rate", ModelConfig().drop_path)
        bkb = SwinTransformer(rate, bkb_kwargs["use_checkpoint"], stages)
        super().__init__(bkb, "swint", bkb_kwargs.get("pretrained"), fpn_kwarg, up_shape)


def _bifpn(options: Options) -> nn.Module:
    """Upstream's BiFPN with synchronised batch norms that run everywhere."""
    from mapmaster.models.backbone.bifpn import BiFPN  # here, because its package imports this module

    norm = SyncBatchNorm if options.get("norm_layer") is nn.SyncBatchNorm else nn.BatchNorm2d
    return BiFPN(**{**options, "norm_layer": norm})


def _upsample(level: Tensor, size: Size) -> Tensor:
    if tuple(level.shape[-2:]) == tuple(size):
        return level
    return F.interpolate(level, size=size, mode="bilinear", align_corners=True)
