"""Samples of the patched tree: which a split has, their annotation files, and PivotNet's data set by name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, Callable

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from pivotnet.annotation.format import MAX_POINTS, load_annotation, to_upstream
from pivotnet.config import CAMERAS, Config
from pivotnet.data.dataset import camera_matrices, camera_paths
from pivotnet.data.images import read_image
from pivotnet.data.projection import project_bev_grid
from pivotnet.data.targets import build_targets
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike, read_tokens
from pivotnet.upstream.settings import BASE, map_config, require

__all__ = ["NuScenesMapDataset", "load_sample", "read_image", "split_tokens"]
Item = dict[str, Any]


def load_sample(path: PathLike, split: str) -> Item:
    """An annotated sample file, ours or upstream's, as the dict that BeMapNet's data set reads. Raises PivotNetError:
    the file is missing or damaged, or has lines to train on without their bezier curves."""
    annotation, folder = load_annotation(path), Path(path).absolute().parent
    converter = Path("tools/anno_converter/nuscenes/convert.py").absolute()  # run.sh works in the tree
    if split == "train" and annotation.map_vectors and not annotation.ctr_points:
        raise PivotNetError(
            f"samples in {folder} have no bezier curves, which BeMapNet is trained on: make them with "
            f"python3 {quote(str(converter))} -d {quote(str(folder.parents[1]))} --bezier --overwrite"
        )
    return to_upstream(annotation)


def split_tokens(split_file: PathLike, anno_root: PathLike) -> list[str]:
    """Tokens of a split. Upstream's split files list all of nuScenes. Where all of their samples are annotated they
    hold; else (a mini or a synthetic data set) the list that ``pivotnet annotate`` has left in ANNO_ROOT/splits under
    the same name does. Raises PivotNetError: samples are not annotated and there is no such list, it is empty, or lists
    no tokens."""
    wanted = read_tokens(split_file)
    annotated = set(os.listdir(anno_root)) if os.path.isdir(anno_root) else set()
    missing = [token for token in wanted if f"{token}.npz" not in annotated]
    if not missing:
        return wanted
    own = Path(anno_root) / "splits" / Path(split_file).name
    tokens = read_tokens(own) if own.is_file() else []
    if not tokens:
        raise PivotNetError(
            f"{len(missing)} of the {len(wanted)} samples of {split_file} have no annotation in {anno_root}, and "
            f"{own} lists no others: run tools/anno_converter/nuscenes/convert.py"
        )
    return tokens


class NuScenesMapDataset(Dataset):
    """Samples as upstream's dicts, and with the BEV grid projected into the cameras (extra_infos). ``img_key_list`` are
    the cameras in config.CAMERAS' order; ``data_split`` is "training", or anything else for the validation split."""

    def __init__(
        self,
        img_key_list: Sequence[str],
        map_conf: Mapping[str, Any],
        transforms: Callable[[Item], Item] | None,
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
            "images": [read_image(self.nusc_root / path) for path in camera_paths(annotation)],
            "targets": {"masks": masks, "points": annotation.pivot_points, "valid_len": annotation.pivot_lengths},
            "extra_infos": {
                "token": token,
                "map_size": self.map_conf["ego_size"],
                "reference_points": torch.as_tensor(points),
                "reference_valid": torch.as_tensor(valid),
            },
            # upstream's network casts them on the device, where float64 is the AI CPU's
            "extrinsic": extrinsic.astype(np.float32),
            "intrinsic": intrinsic.astype(np.float32),
        }
        return item if self.transforms is None else self.transforms(item)

    def collate(self, items: Sequence[Item]) -> Item:
        """Samples -> batch: ``targets`` become structures.Targets, everything else is stacked."""
        samples = [tuple(item["targets"].values()) for item in items]
        rest = [{key: value for key, value in item.items() if key != "targets"} for item in items]
        return {**default_collate(rest), "targets": build_targets(samples, self.config)}
