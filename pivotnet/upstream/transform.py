"""Upstream's transforms by name. Images stay uint8 until they are on the device."""

from collections.abc import Sequence
from typing import Any, Callable

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from pivotnet.criterion.transfer import to_device
from pivotnet.data.images import resize

Item = dict[str, Any]


class Compose:
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


def load_targets(targets: Item, processor: Any) -> list[dict[str, list[Tensor]]]:
    """Collated targets of BeMapNet -> what its criterion reads of each sample, on the device of ``processor``. They are
    made on the host, because an Atlas A2 has ``unique`` on its AI CPU alone. Where a mask does not show every line of
    its class, the lines are drawn anew, and their curves are left in pixels, as upstream leaves them."""
    samples = []
    for masks, points, labels in zip(targets["masks"], targets["points"], targets["labels"]):
        classes = []
        for index, (mask, most) in enumerate(zip(masks, processor.num_points)):
            own = labels[:, 0] == index
            ends, lengths = labels[own, 1].long(), labels[own, 2:]
            control = points[own, :most].float() / torch.tensor(processor.ego_size[::-1])
            curves = processor.curve_recovery_with_bezier(control, ends, index)
            drawn = mask.unique()[1:]
            if len(drawn) == len(ends):
                lines = (mask == drawn[:, None, None]).float()
            else:
                lines = torch.zeros(len(ends), *processor.map_size)
                curves *= torch.tensor(processor.map_size[::-1])
                for line, curve in zip(lines.numpy(), curves.numpy().astype(np.int32)):
                    cv2.polylines(line, [curve], False, 1, processor.line_width)
            classes.append(
                {
                    "sem_masks": (lines.sum(0) > 0).float(),
                    "ins_masks": lines,
                    "obj_labels": torch.zeros_like(ends),
                    "ctr_points": control,
                    "end_labels": ends,
                    "curve_points": curves,
                    "valid_masks": (torch.arange(most) < lengths).to(torch.int8),
                }
            )
        samples.append({name: [one[name] for one in classes] for name in classes[0]})
    leaves, structure = tree_flatten(samples)
    moved = to_device([leaf.numpy() for leaf in leaves], next(processor.buffers()).device)
    return tree_unflatten(moved, structure)
