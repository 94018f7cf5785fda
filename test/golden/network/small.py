"""The small network of the recordings: everything behind the backbone, at sizes that run in a second."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from pivotnet.config import MapConfig, ModelConfig

SEED = 3
BATCH = 2
CAMERAS = 6
MAP = MapConfig(resolution=1.5, map_size=(40, 20), max_points=(3, 2, 4), num_queries=(4, 2, 3))
# mask_stride 2: upstream's head is given the half map as its target shape
MODEL = ModelConfig(
    backbone_channels=(24, 40),
    image_size=(64, 96),
    hidden=32,
    heads=4,
    bev_size=(8, 6),
    bev_encoder_layers=2,
    bev_decoder_layers=2,
    bev_feedforward=48,
    deformable_points=3,
    dropout=0.0,
    line_decoder_layers=3,
    line_feedforward=40,
    point_features=8,
    head_hidden=256,  # upstream has no option for it
    mask_stride=2,
)
MASK_SIZE = (MAP.map_size[0] // MODEL.mask_stride, MAP.map_size[1] // MODEL.mask_stride)
NAMES = ("obj_logits", "ins_masks", "ctr_im", "pts_logits", "sem_masks")


def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 numbers of a stream of that name."""
    stream = np.random.Generator(np.random.PCG64(zlib.crc32(f"{SEED}/{name}".encode())))
    return torch.from_numpy(stream.standard_normal(shape).astype(np.float32))


def features() -> list[Tensor]:
    """Backbone features of both levels, [BATCH * CAMERAS, channels, h, w]."""
    sizes = zip(MODEL.backbone_channels, MODEL.feature_sizes)
    return [drawn(f"features/{i}", (BATCH * CAMERAS, width, *size)) for i, (width, size) in enumerate(sizes)]
