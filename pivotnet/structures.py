"""Data that the stages exchange: Targets, Batch and Predictions. Letters in shapes: B samples, C=3 classes, G
instances of the class that has most of them (at least 1, padded), Q=60 instance queries (20 dividers, 25 crossings, 15
boundaries, in this order), T=700 point queries (20x10, 25x2, 15x30), D line decoder layers, E BEV decoder layers,
N=2048 BEV cells in a grid of h x w (64x32), H x W mask pixels (400x200)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor


@dataclass
class Targets:
    """Padded ground truth of a batch. ``host`` is the copy that stays in host memory for matching."""

    points: Tensor  # float32 [B, C, G, 30, 2] (row, column) in [0, 1], zero-padded
    lengths: Tensor  # int32 [B, C, G] points of each instance, 0 where padded
    counts: Tensor  # int32 [B, C] instances of each class
    masks: Tensor  # uint8 [B, C, G, H, W] 0/1, instance masks
    semantic: Tensor  # uint8 [B, C, H, W] 0/1
    host: Targets | None = None

    def to(self, device: torch.device, non_blocking: bool = False) -> Targets:
        """A copy on ``device`` that keeps this one as ``host``."""
        return dataclasses.replace(_each(self, "to", device, non_blocking=non_blocking), host=self.host or self)

    def pin_memory(self) -> Targets:
        return _each(self, "pin_memory")


@dataclass
class Batch:
    """Input of the network, and its targets if there are any."""

    images: Tensor  # uint8 [B, 6, H, W, 3] BGR, cameras in config.CAMERAS' order; normalised on the device
    reference_points: Tensor  # float32 [B, N, 2] (x, y) of each BEV cell in the side-by-side image, in [0, 1]
    reference_valid: Tensor  # bool [B, N] whether a camera sees the cell
    tokens: list[str]  # B sample tokens
    targets: Targets | None = None

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """A copy on ``device``."""
        return _each(self, "to", device, non_blocking=non_blocking)

    def pin_memory(self) -> Batch:
        return _each(self, "pin_memory")


Structure = TypeVar("Structure", Targets, Batch)


def _each(structure: Structure, method: str, *arguments: Any, **options: Any) -> Structure:
    """A copy in which every tensor, and targets in a batch, are replaced by what their method gives."""
    parts = {name: part for name, part in vars(structure).items() if isinstance(part, (Tensor, Targets))}
    changed: dict[str, Any] = {name: getattr(part, method)(*arguments, **options) for name, part in parts.items()}
    return dataclasses.replace(structure, **changed)


@dataclass
class Predictions:
    """Output of the network, float32, all decoders and classes joined; classes lie side by side along Q and T."""

    object_logits: Tensor  # [D, B, Q, 2], class 0 is "object"
    points: Tensor  # [D, B, T, 2] (row, column) in [0, 1]
    point_logits: Tensor  # [D, B, T, 2], class 1 is "pivot"
    masks: Tensor | None = None  # [D, B, Q, h, w] instance mask logits on the BEV grid
    semantic_logits: Tensor | None = None  # [E, B, C, 2, h, w], channel 0 is never supervised
    extras: dict[str, Any] | None = None  # what upstream's parts pass on in addition
