"""Recordings of upstream's backbones on small images, and of a small network after the backbone. They take seconds,
and hold what full-size forward passes do not: gradients, several samples a batch, stochastic depth."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import math
from collections.abc import Mapping
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from pivotnet.config import MapConfig, preset
from pivotnet.data.projection import project_bev_grid
from pivotnet.model import pivotnet as network_module
from pivotnet.model.backbone import build_backbone
from pivotnet.model.pivotnet import PivotNet
from recordings import inputs, shim
from recordings.comparison import Comparison, compare
from recordings.golden_criterion import FIELDS, as_predictions, flat, rows_of, subsampled
from recordings.golden_network import at_size, modes

# Neither side is a multiple of 32 (upstream's padding then depends on the backbone); in Swin's last stage a side is
# shorter than the shift of the windows, in the one before it a map is exactly one window wide.
IMAGES_SHAPE = (3, 3, 56, 104)
CHANNEL_STEPS = {"swint": (8, 16), "res50": (16, 32), "effb0": (2, 4)}
# Four times the largest difference of upstream in float32 from upstream in float64: of features, as a part of the
# largest; of gradients and statistics, as a part of their norm and of the largest norm.
FEATURES_RELATIVE = {"swint": 4e-6, "res50": 4e-6, "effb0": 6e-5}
FINGERPRINT_OWN = {"swint": 1e-5, "res50": 6e-4, "effb0": 4e-5}
FINGERPRINT_LARGEST = {"swint": 1e-6, "res50": 1e-6, "effb0": 1e-5}

BATCH = 2
CAMERAS = 6
# Few numbers: of few sampled points and activations none changes its side by rounding, at which gradients jump.
MAP = MapConfig(resolution=0.375, map_size=(160, 80), max_points=(3, 2, 4), num_queries=(4, 2, 3))
MODEL = dataclasses.replace(
    preset("effb0").model, image_size=(64, 96), hidden=32, heads=4, bev_size=(8, 6), bev_encoder_layers=2,
    bev_decoder_layers=2, bev_feedforward=48, deformable_points=3, dropout=0.0, line_decoder_layers=3,
    line_feedforward=40, point_features=8, mask_stride=2,  # upstream's head is given the half map as its target shape
)  # fmt: skip
MASK_SIZE = (MAP.map_size[0] // MODEL.mask_stride, MAP.map_size[1] // MODEL.mask_stride)
# the same as options of upstream's parts
BEV = {"src_shape": [(height, width * CAMERAS) for height, width in MODEL.feature_sizes], "tgt_shape": MODEL.bev_size}
BEV |= {"map_size": MAP.map_size, "map_resolution": MAP.resolution, "d_model": 32, "n_heads": 4, "dim_feedforward": 48}
BEV |= {"num_encoder_layers": 2, "num_decoder_layers": 2, "enc_n_points": 3, "dec_n_points": 3}
LINES = {"in_channels": 32, "hidden_dim": 32, "mask_dim": 32, "nheads": 4, "dim_feedforward": 40}
LINES |= {"decoder_ids": [0, 1, 2], "dec_layers": 3, "query_split": MAP.num_queries, "max_pieces": MAP.max_points}
HEAD = {"in_channel": 32, "bev_channels": 32, "ins_channel": 8, "tgt_shape": MASK_SIZE}
HEAD |= {"num_queries": list(MAP.num_queries), "max_pieces": MAP.max_points}
FULL_BEV = (64, 32)
# A mask logit nearer to the threshold may open or close a cell either way: the recorder takes another seed.
MARGIN = 1e-4
# Upstream scales reference points to the feature maps and back, which rounds once more.
POINT_ABSOLUTE = 1e-6


def record_backbone(seed: int, name: str) -> dict[str, np.ndarray]:
    """golden_backbone_<preset>.npz: features, fingerprints of gradients and running statistics of a training step."""
    backbone = shim.build(name, deterministic=False).im_backbone
    return _observe(backbone, lambda x: backbone({"images": x})["im_bkb_features"], name, seed)


def check_backbone(recorded: Mapping[str, np.ndarray], name: str) -> list[Comparison]:
    """golden_backbone_<preset>.npz, with and without checkpointing: the seed leaves out the same branches."""
    own, largest = FINGERPRINT_OWN[name], FINGERPRINT_LARGEST[name]
    comparisons = []
    for checkpointing in (True, False):
        label = f"{name}: small images, checkpointing {'on' if checkpointing else 'off'}"
        features = Comparison(f"{label}: features", relative=FEATURES_RELATIVE[name])
        limits = f"{own:g} of its norm + {largest:g} of the largest"
        others = Comparison(f"{label}: gradients, statistics", tolerance=limits)
        backbone = build_backbone(dataclasses.replace(preset(name).model, checkpointing=checkpointing))
        found = _observe(backbone, backbone, name, int(recorded["seed"]))
        others.require("other keys are recorded", {"seed", *found} == set(recorded))
        for key, value in found.items():
            if key.endswith("keys"):
                others.require(f"{key} differ", value.tolist() == recorded[key].tolist())
            elif "features" in key:
                features.add(key, value, recorded[key])
            else:
                norms = recorded[key][:, :1]
                others.add(key, value, recorded[key], own * norms + largest * norms.max())
        comparisons += [features, others]
    return comparisons


def _observe(backbone: nn.Module, forward: Any, name: str, seed: int) -> dict[str, np.ndarray]:
    """Everything that is recorded of a backbone whose keys begin with ``bkb.``; ``forward``: images -> two features."""
    images = inputs.images(seed, IMAGES_SHAPE)
    found = {}
    for mode in modes(backbone, "im_backbone."):
        torch.manual_seed(seed)  # of stochastic depth
        with torch.set_grad_enabled(mode == "train"):
            features = forward(images)
        for level, (feature, step) in enumerate(zip(features, CHANNEL_STEPS[name])):
            found[f"{mode}/features/{level}"] = feature.detach()[:, ::step].numpy()
    backbone.zero_grad()
    weights = [inputs.images(level, tuple(feature.shape)) for level, feature in enumerate(features)]
    sum((feature * weight).sum() for feature, weight in zip(features, weights)).backward()
    gradients = {key: parameter.grad for key, parameter in backbone.named_parameters()}
    running = {key: value for key, value in backbone.state_dict().items() if "running" in key or "tracked" in key}
    for what, tensors in (("gradients", gradients), ("running", running)):
        if tensors:
            found[f"{what}/keys"] = np.array(list(tensors))
            found[f"{what}/values"] = np.array([_fingerprint(key, tensor) for key, tensor in tensors.items()])
    return found


def _fingerprint(key: str, tensor: Tensor) -> tuple[float, float]:
    """Norm of a tensor, and its product with a random unit vector that depends on its name."""
    direction = inputs.generator(key).standard_normal(tuple(tensor.shape))
    values = tensor.detach().double().numpy()
    return float(np.sqrt((values**2).sum())), float((values * direction).sum() / np.sqrt((direction**2).sum()))


def drawn(seed: int, name: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 numbers of a stream of that name."""
    return torch.from_numpy(inputs.generator(seed, name).standard_normal(shape).astype(np.float32))


def backbone_features(seed: int) -> list[Tensor]:
    """What stands for the backbone's output, [BATCH * CAMERAS, channels, h, w] of both levels; gradients are kept."""
    shapes = [(BATCH * CAMERAS, width, *size) for width, size in zip(MODEL.backbone_channels, MODEL.feature_sizes)]
    return [drawn(seed, f"features/{i}", shape).requires_grad_() for i, shape in enumerate(shapes)]


def functional(seed: int, rows: dict[str, Tensor]) -> Tensor:
    """A random linear function of all outputs, whose gradient is compared."""
    return sum((row * drawn(seed, f"weight/{key}", tuple(row.shape))).mean() for key, row in rows.items())  # type: ignore


def record_small(seed: int) -> dict[str, np.ndarray]:
    """golden_small.npz: outputs of a small network in both modes, gradients of a function of the outputs, running
    statistics, and where upstream sees the cells of the full BEV grid."""
    return next(record for record in map(_record_small, itertools.count(seed)) if record is not None)


def _record_small(seed: int) -> dict[str, np.ndarray] | None:
    """None if a mask logit is too near to the threshold."""
    rigs = [inputs.cameras(seed + i) for i in range(BATCH)]
    extrinsic, intrinsic = (np.concatenate(part) for part in zip(*rigs))
    record: dict[str, np.ndarray] = {"extrinsic": extrinsic, "intrinsic": intrinsic}
    network = shim.build("effb0", bev_decoder=BEV, ins_decoder=LINES, output_head=HEAD)
    for mode in modes(network):
        leaves = backbone_features(seed)
        state: dict[str, Any] = {
            "images": torch.empty(BATCH, CAMERAS, 0),
            "extra_infos": {},
            "extrinsic": torch.from_numpy(extrinsic).float(),
            "intrinsic": torch.from_numpy(intrinsic).float(),
            "im_bkb_features": list(leaves),
        }
        for part in (network.bev_decoder, network.ins_decoder, network.output_head):
            state.update(part(state))
        if min(float(masks.abs().min()) for row in state["mask_features"] for masks in row) < MARGIN:
            return None
        outputs = flat({name: state["outputs"][name] for name in FIELDS})
        record |= {f"{mode}/{key}": subsampled(key, tensor) for key, tensor in outputs.items()}
    functional(seed, rows_of(as_predictions(outputs))).backward()
    record |= _gradients(network, leaves)
    record |= {f"after/{key}": buffer.numpy() for key, buffer in _statistics(network)}
    return record | _upstream_projection(extrinsic, intrinsic)


def _statistics(network: nn.Module) -> list[tuple[str, Tensor]]:
    """Running statistics after the backbone."""
    return [(k, b) for k, b in network.named_buffers() if "running" in k and not k.startswith("im_backbone")]


def _gradients(network: nn.Module, leaves: list[Tensor]) -> dict[str, np.ndarray]:
    """Norms by parameter, and a part of the features' gradients."""
    parameters = [(key, p.grad) for key, p in network.named_parameters() if p.grad is not None]
    norms = {f"gradient/{key}": np.float64(gradient.double().norm()) for key, gradient in parameters}
    return {**norms, **{f"feature_gradient/{i}": leaf.grad[:, ::4].numpy() for i, leaf in enumerate(leaves)}}  # type: ignore


def _upstream_projection(extrinsic: np.ndarray, intrinsic: np.ndarray) -> dict[str, np.ndarray]:
    """Reference points and validity of the presets' BEV grid for each rig."""
    module = importlib.import_module("mapmaster.models.bev_decoder.deform_transformer.deform_transformer")
    shapes = {"src_shape": [(32, 336), (16, 168)], "tgt_shape": FULL_BEV}
    transformer = module.DeformTransformer(in_channels=[8, 8], d_model=8, use_projection=True, **shapes)
    record = {}
    for i, cameras in enumerate(zip(extrinsic, intrinsic)):
        points, valid = transformer.get_projection_points(*(torch.from_numpy(part).float() for part in cameras))
        record |= {f"projection/{i}/points": points[:, 0].numpy(), f"projection/{i}/valid": valid.numpy()}
    return record


def check_small(recorded: Mapping[str, np.ndarray]) -> list[Comparison]:
    """golden_small.npz: outputs and gradients for two samples, and the projection of the BEV grid."""
    seed = int(recorded["seed"])
    cameras = list(zip(recorded["extrinsic"], recorded["intrinsic"]))
    reference = [torch.stack(part) for part in zip(*(project_bev_grid(*rig, MODEL.bev_size, MAP) for rig in cameras))]
    images = torch.zeros(BATCH, CAMERAS, 3, *MODEL.image_size)
    backbone = _Backbone()
    with mock.patch.object(network_module, "build_backbone", lambda model: backbone):
        network = PivotNet(MODEL, MAP)
    comparisons = []
    for mode in modes(network):
        backbone.leaves = backbone_features(seed)
        predictions = network(images, *reference)
        rows = rows_of(at_size(predictions, MASK_SIZE))
        comparison = Comparison(f"small network: {mode}", absolute=2e-5, each=1e-5)
        theirs = rows_of(as_predictions(recorded, f"{mode}/"), f"{mode}/")
        comparison.require("other outputs are recorded", theirs.keys() == {f"{mode}/{key}" for key in rows})
        compare({"*": comparison}, rows, theirs, f"{mode}/")
        comparisons.append(comparison)
    functional(seed, rows).backward()
    found = _gradients(network, backbone.leaves)
    total = math.hypot(*(float(recorded[key]) for key in found if key.startswith("gradient/")))
    groups = {
        "gradient/*": Comparison("small network: gradient norms", absolute=1e-6 * total, each=1e-4),
        "feature_gradient/*": Comparison("small network: gradients of features", relative=1e-5, each=1e-4),
        "after/*": Comparison("small network: running statistics", absolute=1e-6, each=1e-5),
    }
    recorded_gradients = {key for key in recorded if "gradient/" in key}
    groups["gradient/*"].require("other gradients are recorded", found.keys() == recorded_gradients)
    compare(groups, {**found, **{f"after/{key}": buffer for key, buffer in _statistics(network)}}, recorded)
    seen = Comparison("projection: cells that a camera sees")
    points = Comparison("projection: reference points", absolute=POINT_ABSOLUTE)
    for i, rig in enumerate(cameras):
        ours, valid = (tensor.numpy() for tensor in project_bev_grid(*rig, FULL_BEV, MapConfig()))
        seen.add(str(i), valid, recorded[f"projection/{i}/valid"])
        points.add(str(i), ours[valid], recorded[f"projection/{i}/points"][valid])
    return [*comparisons, *groups.values(), seen, points]


class _Backbone(nn.Module):
    """Gives the recorded features whatever the images are."""

    leaves: list[Tensor]

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.leaves
