"""Upstream's transforms by name. Images stay uint8 until they are on the device."""

from collections.abc import Sequence
from typing import Any, Callable

import numpy as np
import torch
from torch import Tensor, nn

from pivotnet.data.images import resize

Item = dict[str, Any]


class Compose:
    """Transforms one after the other."""

    def __init__(self, transforms: Sequence[Callable[[Item], Item]]) -> None:
        self.transforms = list(transforms)

    def __call__(self, data_dict: Item) -> Item:
        for transform in self.transforms:
            data_dict = transform(data_dict)
        return data_dict


class Resize:
    """Resize the images to ``img_scale`` (width, height), bilinearly."""

    def __init__(self, img_scale: tuple[int, int]) -> None:
        self.width, self.height = img_scale

    def __call__(self, data_dict: Item) -> Item:
        images = [resize(image, (self.height, self.width)) for image in data_dict["images"]]
        return {**data_dict, "images": images}


class Normalize:
    """Note how the images are to be normalised; ``load_images`` does it on the device."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], to_rgb: bool = True) -> None:
        self.settings = {
            "mean": np.array(mean, np.float32),
            "scale": (1 / np.array(std, np.float64)).astype(np.float32),
            "to_rgb": to_rgb,
        }

    def __call__(self, data_dict: Item) -> Item:
        return {**data_dict, "extra_infos": {**data_dict["extra_infos"], "img_norm_cfg": self.settings}}


class ToTensor_Pivot:
    """Images -> uint8 [6, height, width, 3]."""

    def __call__(self, data_dict: Item) -> Item:
        return {**data_dict, "images": torch.from_numpy(np.stack(data_dict["images"]))}


def load_images(batch: Item, model: nn.Module) -> Tensor:
    """The images of a batch on the device of ``model``, float32 [B, 6, 3, height, width], normalised. uint8 images [B,
    6, height, width, 3] are normalised there as ``Normalize`` noted; others are taken as they are. With ``to_rgb``
    upstream swaps the channels of images that are RGB already, and scales to [0, 1] first."""
    images = batch["images"].to(next(model.parameters()).device, non_blocking=True)
    if images.dtype != torch.uint8:
        return images.float()
    settings = batch["extra_infos"]["img_norm_cfg"]
    mean, scale = (settings[name][0].to(images.device)[:, None, None] for name in ("mean", "scale"))
    if bool(settings["to_rgb"][0]):  # on the host
        images = (images / 255.0).flip(-1)  # in this order: an Atlas A2 flips uint8 on its AI CPU
    return (images.permute(0, 1, 4, 2, 3) - mean) * scale
