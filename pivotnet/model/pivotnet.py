"""The complete network: six camera images -> Predictions. Modules are named as in upstream's checkpoints, whose
state_dict loads here and the other way round."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from pivotnet import checkpoint as checkpoints
from pivotnet.config import PRESETS, Config, CriterionConfig, MapConfig, ModelConfig
from pivotnet.config import preset as preset_config
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike
from pivotnet.model.backbone import build_backbone
from pivotnet.model.bev_encoder import BevEncoder
from pivotnet.model.line_decoder import LineDecoder
from pivotnet.model.point_head import PointHead
from pivotnet.structures import Predictions

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


class PivotNet(nn.Module):
    """Backbone, BEV encoder, line-aware point decoder and point head."""

    image_mean: Tensor
    image_scale: Tensor

    def __init__(self, model: ModelConfig, map_config: MapConfig) -> None:
        super().__init__()
        self.bev_size = model.bev_size
        self.im_backbone = build_backbone(model)
        self.bev_decoder = nn.ModuleDict({"bev_encoder": BevEncoder(model)})
        self.ins_decoder = nn.ModuleDict({"bev_decoder": LineDecoder(model, map_config)})
        self.output_head = PointHead(model, map_config)
        criterion, config = nn.Module(), CriterionConfig()  # class weights, which upstream's checkpoints have
        criterion.register_buffer("empty_weight", torch.tensor([1.0, config.no_object_weight]))
        criterion.register_buffer("collinear_pt_weight", torch.tensor([config.collinear_weight, 1.0]))
        self.post_processor = nn.ModuleDict({"criterion": criterion})
        self.register_buffer("image_mean", torch.tensor(IMAGE_MEAN), persistent=False)
        self.register_buffer("image_scale", (1 / torch.tensor(IMAGE_STD).double()).float(), persistent=False)

    @property
    def bev_encoder(self) -> BevEncoder:
        return cast(BevEncoder, self.bev_decoder["bev_encoder"])

    @property
    def line_decoder(self) -> LineDecoder:
        return cast(LineDecoder, self.ins_decoder["bev_decoder"])

    def forward(
        self, images: Tensor, reference_points: Tensor, reference_valid: Tensor, final_only: bool = False
    ) -> Predictions:
        """Predict the map from images uint8 [B, 6, H, W, 3] BGR, or float [B, 6, 3, H, W] already normalised.
        ``reference_points``: float32 [B, N, 2] (x, y) of each BEV cell in the side-by-side image; ``reference_valid``:
        bool [B, N] whether a camera sees the cell; ``final_only``: only what post-processing needs, the last decoder's
        objects and points (D = 1), no masks."""
        if images.dtype == torch.uint8:
            images = self.normalise(images)
        # Autocast is for the backbone, four fifths of swint's arithmetic: what follows would spend more calls on casts
        # than it gains, and bfloat16 has 3 digits, a row of cameras 336 cells.
        float32 = torch.autocast(images.device.type, enabled=False)
        with float32:
            # First, so that its part of the backward pass comes last, when no other activations are left.
            mean_features = self.output_head.mean_coordinate_features()
        features = self.im_backbone(images.flatten(0, 1))
        with float32:
            features = [level.float() for level in features]
            bev = self.bev_encoder(features, reference_points, reference_valid)  # [B, N, hidden] each
            lines = self.line_decoder(bev[-1], final_only)
            return self.output_head(lines, bev, self.bev_size, mean_features)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [B, V, H, W, 3] BGR -> float32 [B, V, 3, H, W] BGR. Upstream takes its RGB images for BGR and swaps
        them, so that blue is normalised with the statistics of red. The published weights are trained that way."""
        unit = images.permute(0, 1, 4, 2, 3) / 255.0
        return (unit - self.image_mean.view(-1, 1, 1)) * self.image_scale.view(-1, 1, 1)


def load_model(path: PathLike, device: torch.device, preset: str | None = None) -> tuple[PivotNet, Config]:
    """A network with a checkpoint's weights, in eval mode on ``device``, and its configuration. The checkpoint is ours,
    which knows its configuration, so that ``preset`` must be that if given, or upstream's, which needs ``preset``.
    Raises PivotNetError: unreadable, of another preset, or of upstream without ``preset``."""
    state = checkpoints.read_checkpoint(path)
    if "pivotnet" in state:
        config = checkpoints.config_from_dict(state["pivotnet"]["config"])
        if preset is not None and preset != config.name:
            wanted = preset_config(preset)
            raise PivotNetError(
                f"checkpoint {path} is of preset {config.name} ({config.model.backbone} backbone), "
                f"not {wanted.name} ({wanted.model.backbone}): leave --preset out or choose another checkpoint"
            )
    elif preset is None:
        backbone = checkpoints.backbone_of(state["model_state"]) or "unknown"
        fitting = [name for name, known in PRESETS.items() if known.model.backbone == backbone] or list(PRESETS)
        remedy = f"give --preset {' or '.join(fitting)}"
        raise PivotNetError(f"checkpoint {path} ({backbone} backbone) names no preset: {remedy}")
    else:
        config = preset_config(preset)
    try:
        model = PivotNet(config.model, config.map)
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PivotNetError(f"checkpoint {path} has a configuration of no network ({reason}); take another") from error
    checkpoints.load_weights(model, state, path, config)
    return model.to(device).eval(), config
