"""The parts of upstream's network by name. Parameters have upstream's names and order. Each part takes the dict that
upstream hands from part to part and returns what it adds to it. The options are those of upstream's configs;
``settings`` refuses what the port does not support."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pivotnet.config import BACKBONES, Config, MapConfig
from pivotnet.criterion.criterion import Criterion
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.inference import draw_mask, postprocess
from pivotnet.evaluation.results import to_upstream
from pivotnet.launch.choices import ROOT, WITHOUT_WEIGHTS
from pivotnet.model.backbone.efficientnet import EfficientNet
from pivotnet.model.backbone.pretrained import load_pretrained
from pivotnet.model.backbone.resnet import ResNet
from pivotnet.model.backbone.swin import SwinTransformer
from pivotnet.model.bev_encoder import BevEncoder
from pivotnet.model.line_decoder import LineDecoder, sine_position
from pivotnet.model.ops.sync_batch_norm import SyncBatchNorm, convert_sync_batch_norm
from pivotnet.model.point_head import PointHead
from pivotnet.structures import Predictions, Targets
from pivotnet.upstream.settings import BASE, bev_config, criterion_config, line_config, map_config, require

STRIDE_8_BLOCK = 4  # EfficientNet-B0's last block of stride 8
Options = Mapping[str, Any]


class _Backbone(nn.Module):
    """The images of a batch -> the last ``ret_layers`` features, and what upstream's BiFPN (BeMapNet) makes of them."""

    name: str
    fixed: dict[str, Any]  # options of which one value is supported

    def __init__(
        self, bkb_kwargs: Options, fpn_kwarg: Options | None = None, up_shape: Any = None, ret_layers: int = 1
    ) -> None:
        super().__init__()
        require("im_backbone", bkb_kwargs, self.fixed)
        self.bkb, weights = self.build(bkb_kwargs, ret_layers)
        self.fpn = None if fpn_kwarg is None else _bifpn(fpn_kwarg)
        self.up_shape = up_shape  # (rows, columns) to which all features are brought and joined
        if weights:
            folders = [Path(weights).parent, Path(os.environ.get("WEIGHTS") or ROOT / "assets" / "weights")]
            file = next((path for folder in folders if (path := folder / Path(weights).name).is_file()), None)
            if file:
                load_pretrained(self, self.name, file)
            elif os.environ.get(WITHOUT_WEIGHTS) != "none":
                raise PivotNetError(
                    f"the backbone file {Path(weights).name} is neither in {folders[0].resolve()} nor in {folders[1]}: "
                    f"download it from {BACKBONES[self.name].url}, or set {WITHOUT_WEIGHTS}=none to start with a "
                    "random backbone (it then learns slower and less)"
                )

    def build(self, options: Options, outputs: int) -> tuple[nn.Module, str | None]:
        """The network that returns its last ``outputs`` features, and the file with its starting weights, which
        upstream requires, so that nobody starts without it by mistake."""
        raise NotImplementedError

    def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """``inputs["images"]``: float32 [B, 6, 3, height, width], normalised."""
        features = list(self.bkb(inputs["images"].flatten(0, 1)))  # [B*6, C, h, w] each
        neck: list[Tensor] | None = None
        if self.fpn is not None:
            neck = self.fpn(features)
        elif self.up_shape is not None:
            levels = [F.interpolate(level, self.up_shape, mode="bilinear", align_corners=True) for level in features]
            neck = [torch.cat(levels, dim=1)]
        return {"im_bkb_features": features, "im_nek_features": neck}


class ResNetBackbone(_Backbone):
    name, fixed = "res50", {"depth": 50, "num_stages": 4, "style": "pytorch", "norm_eval": True}

    def build(self, options: Options, outputs: int) -> tuple[nn.Module, str | None]:
        resnet = ResNet(options["with_cp"], outputs=outputs)
        frozen = [["conv1", "bn1"], ["layer1"], ["layer2"], ["layer3"], ["layer4"]][: options["frozen_stages"] + 1]
        for name in itertools.chain(*frozen):
            resnet.get_submodule(name).requires_grad_(False)
        return resnet, options.get("init_cfg", {}).get("checkpoint")


class EfficientNetBackbone(_Backbone):
    name, fixed = "effb0", {"model_name": "efficientnet-b0", "in_channels": 3, "out_stride": 32}

    def build(self, options: Options, outputs: int) -> tuple[nn.Module, str | None]:
        efficientnet = EfficientNet(BASE.drop_connect, options["with_cp"])
        blocks: Any = (STRIDE_8_BLOCK, *efficientnet.feature_blocks)
        efficientnet.feature_blocks = blocks[-outputs:]
        if options.get("norm_layer") is nn.SyncBatchNorm:
            convert_sync_batch_norm(efficientnet)
        return efficientnet, options.get("weights_path")


class SwinTRBackbone(_Backbone):
    name, fixed = "swint", {"arch": "tiny", "shift_mode": 0, "window_size": 7, "ape": False}

    def build(self, options: Options, outputs: int) -> tuple[nn.Module, str | None]:
        rate = options.get("drop_path_rate", BASE.drop_path)
        swin = SwinTransformer(rate, options["use_checkpoint"], tuple(options["out_indices"])[-outputs:])
        return swin, options.get("pretrained")


def _bifpn(options: Options) -> nn.Module:
    """Upstream's BiFPN with synchronised batch norms that run everywhere."""
    from mapmaster.models.backbone.bifpn import BiFPN  # here, because its package imports this module

    norm = SyncBatchNorm if options.get("norm_layer") is nn.SyncBatchNorm else nn.BatchNorm2d
    return BiFPN(**{**options, "norm_layer": norm})


class DeformTransformerBEVEncoder(nn.Module):
    """Camera features -> BEV features of every decoder layer (PivotNet)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.model = bev_config(kwargs)
        self.bev_encoder = BevEncoder(self.model)

    def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """im_bkb_features, and the BEV grid in the cameras, which the port's data set puts into extra_infos ->
        bev_features, E times [B, N, C], and upstream's view of it: bev_enc_features, E times [B, C, rows, columns]."""
        features, infos = inputs["im_bkb_features"], inputs["extra_infos"]
        if "reference_points" not in infos:
            raise PivotNetError("the samples have no reference_points: use the data set of pivotnet.upstream.samples")
        device = features[0].device
        outputs = self.bev_encoder(features, infos["reference_points"].to(device), infos["reference_valid"].to(device))
        maps = [output.transpose(1, 2).unflatten(2, self.model.bev_size) for output in outputs]
        return {"bev_features": outputs, "bev_enc_features": maps}


class TransformerBEVDecoder(nn.Module):
    """Upstream's transformer around the features under ``key`` (BeMapNet); its module imports no compiled operator."""

    def __init__(self, key: str = "im_bkb_features", **kwargs: Any) -> None:
        super().__init__()
        from mapmaster.models.bev_decoder.transformer import Transformer  # here: its package imports this module

        self.key = key
        self.bev_encoder = Transformer(**kwargs)

    def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Last features of ``key`` [B*6, C, h, w] -> {"bev_enc_features": E times [B, C, rows, columns]}."""
        level = inputs[self.key][-1].unflatten(0, inputs["images"].shape[:2])  # [B, 6, C, h, w]
        given = {name: inputs.get(name) for name in ("extrinsic", "intrinsic", "ida_mats")}
        cameras = {  # of the last two upstream needs the inverse; an Atlas A2 has it on its AI CPU alone
            name: None if host is None else (host if name == "extrinsic" else host.inverse()).to(level.device)
            for name, host in given.items()
        }
        cameras["do_flip"] = inputs["extra_infos"].get("do_flip")
        side_by_side = level.permute(0, 2, 3, 1, 4).flatten(3)
        _, _, maps = self.bev_encoder(side_by_side, cameras_info=cameras)
        return {"bev_enc_features": list(maps)}


class PointMask2formerINSDecoder(nn.Module):
    """BEV features -> features and logits of the point queries, of every layer in training, of the last otherwise."""

    def __init__(self, decoder_ids: Sequence[int] = (5,), tgt_shape: Any = None, **kwargs: Any) -> None:
        super().__init__()
        model, lines = line_config(kwargs)
        given = {"decoder_ids": list(decoder_ids), "tgt_shape": tgt_shape}
        require("ins_decoder", given, {"decoder_ids": list(range(model.line_decoder_layers)), "tgt_shape": None})
        self.bev_decoder = LineDecoder(model, lines)
        self.bev_size, self.hidden = model.bev_size, model.hidden

    def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """{"bev_features": E times [B, N, C], ...} -> {"line_features": LineFeatures}."""
        size = tuple(inputs["bev_enc_features"][-1].shape[-2:])
        bev = inputs["bev_features"][-1]
        if size != self.bev_size:
            self.bev_size = size
            self.bev_decoder.position = sine_position(size, self.hidden).to(bev.device)
        return {"line_features": self.bev_decoder(bev, final_only=not self.training)}


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
        self.queries = tuple(num_queries)
        model = dataclasses.replace(BASE, hidden=in_channel, point_features=ins_channel)
        super().__init__(model, MapConfig(map_size=tgt_shape, max_points=max_pieces))

    def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        """{"line_features", "bev_features", ...} -> {"outputs": Predictions}; without masks outside of training."""
        size, mean_features = tuple(inputs["bev_enc_features"][-1].shape[-2:]), self.mean_coordinate_features()
        predictions = super().forward(inputs["line_features"], inputs["bev_features"], size, mean_features)
        predictions.extras = {"num_queries": self.queries}
        return {"outputs": predictions}


class PivotMapPostProcessor(nn.Module):
    """Predictions -> loss and its terms (training), or results and masks as upstream saves them."""

    def __init__(self, pivot_conf: Options, map_conf: Options, **losses: Any) -> None:
        super().__init__()
        weights = criterion_config(**losses)
        self.loss = Criterion(Config("upstream", BASE, map_config(map_conf, tuple(pivot_conf["max_pieces"])), weights))
        # upstream's checkpoints contain its class weights under these names
        self.criterion = nn.Module()
        self.criterion.register_buffer("empty_weight", torch.tensor([1.0, weights.no_object_weight]))
        self.criterion.register_buffer("collinear_pt_weight", torch.tensor([weights.collinear_weight, 1.0]))

    def forward(self, outputs: Predictions, targets: Targets | None = None) -> Any:
        """Training: (loss, {term: loss}). Otherwise: (results, masks), one a sample."""
        config = self.loss.config
        queries = (outputs.extras or {}).get("num_queries", config.map.num_queries)
        if queries != config.map.num_queries:
            config = dataclasses.replace(config, map=dataclasses.replace(config.map, num_queries=queries))
            self.loss = Criterion(config)  # it keeps constants on the device from step to step
        if not self.training:
            samples = postprocess(outputs, config.map)
            return [to_upstream(sample) for sample in samples], [draw_mask(sample, config.map) for sample in samples]
        assert targets is not None
        result = self.loss(outputs, targets.to(outputs.points.device, non_blocking=True))
        return result.total, result.terms
