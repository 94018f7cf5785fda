"""Upstream's NuScenesMapDataset of PivotNet by name, and its way from annotated samples to batches of any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import torch
from torch.utils.data import Dataset, default_collate

from pivotnet.annotation.format import MAX_POINTS, load_annotation
from pivotnet.config import CAMERAS, Config
from pivotnet.data.dataset import camera_matrices, camera_paths
from pivotnet.data.images import read_image
from pivotnet.data.projection import project_bev_grid
from pivotnet.data.targets import build_targets
from pivotnet.upstream.samples import split_tokens
from pivotnet.upstream.settings import BASE, map_config, require

Item = dict[str, Any]


class NuScenesMapDataset(Dataset):
    """Samples as upstream's dicts, and with the BEV grid projected into the cameras (extra_infos).

    Args:
        img_key_list: cameras, in config.CAMERAS' order.
        map_conf: upstream's map_conf.
        transforms: applied to each sample, may be None.
        data_split: "training" or anything else for the validation split.
    """

    def __init__(
        self,
        img_key_list: Sequence[str],
        map_conf: Mapping[str, Any],
        transforms: Optional[Callable[[Item], Item]],
        data_split: str = "training",
    ) -> None:
        require("dataset_setup", {"img_key_list": list(img_key_list)}, {"img_key_list": list(CAMERAS)})
        self.map_conf, self.transforms = map_conf, transforms
        self.config = Config("upstream", BASE, map_config(map_conf, MAX_POINTS))
        self.nusc_root, self.anno_root = Path(map_conf["nusc_root"]), Path(map_conf["anno_root"])
        split = "train" if data_split == "training" else "val"
        self.tokens = split_tokens(Path(map_conf["split_dir"]) / f"{split}.txt", self.anno_root)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> Item:
        token = self.tokens[index]
        annotation = load_annotation(self.anno_root / f"{token}.npz")
        extrinsic, intrinsic = camera_matrices(annotation)
        points, valid = project_bev_grid(extrinsic, intrinsic, self.config.model.bev_size, self.config.map)
        masks = getattr(annotation, self.map_conf["mask_key"])
        item = {
            "images": [read_image(self.nusc_root / path) for path in camera_paths(annotation, token)],
            "targets": {"masks": masks, "points": annotation.pivot_points, "valid_len": annotation.pivot_lengths},
            "extra_infos": {
                "token": token,
                "map_size": self.map_conf["ego_size"],
                "reference_points": torch.as_tensor(points),
                "reference_valid": torch.as_tensor(valid),
            },
            "extrinsic": extrinsic,
            "intrinsic": intrinsic,
        }
        return item if self.transforms is None else self.transforms(item)

    def collate(self, items: Sequence[Item]) -> Item:
        """Samples -> batch: ``targets`` become structures.Targets, everything else is stacked."""
        samples = [tuple(item["targets"][key] for key in ("masks", "points", "valid_len")) for item in items]
        rest = [{key: value for key, value in item.items() if key != "targets"} for item in items]
        return {**default_collate(rest), "targets": build_targets(samples, self.config)}
