"""Recordings of upstream's backbones on small images, and of a small network behind the backbone.

They take seconds, and hold what full-size forward passes do not: gradients, several samples a batch, stochastic depth.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from pivotnet.config import MapConfig, ModelConfig, preset
from pivotnet.data.projection import project_bev_grid
from pivotnet.model import pivotnet as network_module
from pivotnet.model.backbone import build_backbone
from pivotnet.model.pivotnet import PivotNet
from recordings import inputs, rule, shim
from recordings.comparison import Comparison
from recordings.golden_criterion import FIELDS, flat, kept_pixels, subsampled
from recordings.golden_network import outputs_of

# Neither side is a multiple of 32 (upstream's padding then depends on the backbone); in Swin's last stage a side is
# shorter than the shift of the windows, in the one before it a map is exactly one window wide.
IMAGES_SHAPE = (3, 3, 56, 104)
CHANNEL_STEPS = {"swint": (8, 16), "res50": (16, 32), "effb0": (2, 4)}
# Differences of float32 from float64, measured on upstream and recorded, times this; and rounding of norms.
NOISE_FACTOR, FINGERPRINT_OWN, FINGERPRINT_LARGEST = 4, 1e-5, 1e-6

BATCH = 2
CAMERAS = 6
MAP = MapConfig(resolution=1.5, map_size=(40, 20), max_points=(3, 2, 4), num_queries=(4, 2, 3))
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
    mask_stride=2,  # upstream's head is given the half map as its target shape
)
MASK_SIZE = (MAP.map_size[0] // MODEL.mask_stride, MAP.map_size[1] // MODEL.mask_stride)
FULL_BEV = (64, 32)
# A mask logit nearer to the threshold may open or close a cell either way: the recorder takes another seed.
MARGIN = 1e-4
# Upstream scales reference points to the feature maps and back, which rounds once more.
POINT_ABSOLUTE = 1e-6


def record_backbone(seed: int, name: str) -> dict[str, np.ndarray]:
    """golden_backbone_<preset>.npz: features, fingerprints of gradients and of running statistics of a training step,
    and how far all of them are from the same in float64."""
    record: dict[str, np.ndarray] = {"seed": np.int64(seed)}
    for dtype in (torch.float32, torch.float64):
        network = shim.build(name, deterministic=False).im_backbone.to(dtype)
        with _random_numbers_of_float32():
            found = _observe(network, lambda x, net=network: net({"images": x})["im_bkb_features"], name, seed)
        for key, value in found.items():
            if dtype == torch.float32:
                record[key] = value
            elif not key.endswith("keys"):
                record[f"noise/{key}"] = np.abs(value - record[key]).max(axis=-1 if value.ndim == 2 else None)
    return record


def check_backbone(path: Path, name: str) -> list[Comparison]:
    """golden_backbone_<preset>.npz, with and without checkpointing: the seed leaves out the same branches."""
    recorded = np.load(path, allow_pickle=False)
    comparisons = []
    for checkpointing in (True, False):
        label = f"{name}: small images, checkpointing {'on' if checkpointing else 'off'}"
        features = Comparison(f"{label}: features", tolerance=f"{NOISE_FACTOR} x noise")
        others = Comparison(
            f"{label}: gradients, statistics", tolerance=f"{NOISE_FACTOR} x noise + {FINGERPRINT_OWN:g}"
        )
        backbone = build_backbone(dataclasses.replace(preset(name).model, checkpointing=checkpointing))
        found = _observe(backbone, backbone, name, int(recorded["seed"]))
        keys = {key for key in recorded.files if "/" in key and not key.startswith("noise/")}
        others.require("other keys are recorded", found.keys() == keys)
        for key, value in found.items():
            if key.endswith("keys"):
                others.require(f"{key} differ", value.tolist() == recorded[key].tolist())
                continue
            noise = NOISE_FACTOR * recorded[f"noise/{key}"]
            if "features" in key:
                features.add(key, value, recorded[key], noise)
            else:
                norms = recorded[key][:, :1]
                rounding = FINGERPRINT_OWN * norms + FINGERPRINT_LARGEST * norms.max()
                others.add(key, value, recorded[key], noise[:, None] + rounding)
        comparisons += [features, others]
    return comparisons


def _observe(backbone: nn.Module, forward: Any, name: str, seed: int) -> dict[str, np.ndarray]:
    """Everything that is recorded of a backbone whose keys begin with ``bkb.``; ``forward``: images -> two features."""
    images = rule.images(seed, IMAGES_SHAPE).to(next(backbone.parameters()).dtype)
    found = {}
    for mode in ("eval", "train"):
        rule.fill(backbone.state_dict(), "im_backbone.")
        backbone.train(mode == "train")
        torch.manual_seed(seed)  # of stochastic depth
        with torch.set_grad_enabled(mode == "train"):
            features = forward(images)
        for level, (feature, step) in enumerate(zip(features, CHANNEL_STEPS[name])):
            found[f"{mode}/features/{level}"] = feature.detach()[:, ::step].numpy()
    backbone.zero_grad()
    weights = [rule.images(level, tuple(feature.shape)).to(feature.dtype) for level, feature in enumerate(features)]
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


@contextlib.contextmanager
def _random_numbers_of_float32() -> Iterator[None]:
    """A double takes twice the random bits of a float: let stochastic depth leave out the same branches in float64."""
    rand = torch.rand

    def rounded(*size: Any, dtype: torch.dtype, **options: Any) -> Tensor:
        return rand(*size, dtype=torch.float32, **options).to(dtype)

    with mock.patch.object(torch, "rand", rounded):
        yield


def drawn(seed: int, name: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 numbers of a stream of that name."""
    return torch.from_numpy(inputs.generator(seed, name).standard_normal(shape).astype(np.float32))


def backbone_features(seed: int) -> list[Tensor]:
    """What stands for the backbone's output, [BATCH * CAMERAS, channels, h, w] of both levels; gradients are kept."""
    sizes = zip(MODEL.backbone_channels, MODEL.feature_sizes)
    shapes = [(BATCH * CAMERAS, width, *size) for width, size in sizes]
    return [drawn(seed, f"features/{i}", shape).requires_grad_() for i, shape in enumerate(shapes)]


def functional(seed: int, outputs: dict[str, Tensor]) -> Tensor:
    """A random linear function of all outputs, whose gradient is compared."""
    return sum((o * drawn(seed, f"weight/{key}", tuple(o.shape))).mean() for key, o in outputs.items())  # type: ignore


def record_small(seed: int) -> dict[str, np.ndarray]:
    """golden_small.npz: outputs of a small network in both modes, gradients of a function of the outputs, running
    statistics, and where upstream sees the cells of the full BEV grid."""
    return next(record for record in map(_record_small, itertools.count(seed)) if record is not None)


def _record_small(seed: int) -> dict[str, np.ndarray] | None:
    """None if a mask logit is too near to the threshold."""
    rigs = [inputs.cameras(seed + i) for i in range(BATCH)]
    extrinsic, intrinsic = (np.concatenate(part) for part in zip(*rigs))
    record: dict[str, np.ndarray] = {"seed": np.int64(seed), "extrinsic": extrinsic, "intrinsic": intrinsic}
    network = _upstream_network()
    for mode in ("eval", "train"):
        rule.fill(network.state_dict())
        network.train(mode == "train")
        leaves = backbone_features(seed)
        state: dict[str, Any] = {
            "images": torch.empty(BATCH, CAMERAS, 0),
            "extra_infos": {},
            "extrinsic": torch.from_numpy(extrinsic).float(),
            "intrinsic": torch.from_numpy(intrinsic).float(),
            "im_bkb_features": list(leaves),
        }
        for part in network.values():
            state.update(part(state))
        if min(float(masks.abs().min()) for row in state["mask_features"] for masks in row) < MARGIN:
            return None
        outputs = flat({name: state["outputs"][name] for name in FIELDS})
        record |= {f"{mode}/{key}": subsampled(key, tensor, 2).detach().numpy() for key, tensor in outputs.items()}
    functional(seed, outputs).backward()
    record |= _gradients(network, leaves)
    record |= {f"after/{key}": buffer.numpy() for key, buffer in network.named_buffers() if "running" in key}
    return record | _upstream_projection(extrinsic, intrinsic)


def _gradients(network: nn.Module, leaves: list[Tensor]) -> dict[str, np.ndarray]:
    """Norms by parameter, and a part of the features' gradients."""
    norms = {f"gradient/{key}": np.float64(p.grad.double().norm()) for key, p in network.named_parameters()}  # type: ignore
    return {**norms, **{f"feature_gradient/{i}": leaf.grad[:, ::4].numpy() for i, leaf in enumerate(leaves)}}  # type: ignore


def _upstream_network() -> nn.Module:
    """Upstream's classes at the sizes of MODEL and MAP."""
    setup = shim.model_setup("swint")
    bev, lines, head = (setup[part]["net_kwargs"] for part in ("bev_decoder", "ins_decoder", "output_head"))
    bev.update(
        in_channels=list(MODEL.backbone_channels),
        src_shape=[(h, w * CAMERAS) for h, w in MODEL.feature_sizes],
        tgt_shape=MODEL.bev_size,
        d_model=MODEL.hidden,
        n_heads=MODEL.heads,
        num_encoder_layers=MODEL.bev_encoder_layers,
        num_decoder_layers=MODEL.bev_decoder_layers,
        dim_feedforward=MODEL.bev_feedforward,
        dropout=0.0,
        dec_n_points=MODEL.deformable_points,
        enc_n_points=MODEL.deformable_points,
        norm_layer=nn.BatchNorm2d,
        map_size=MAP.map_size,
        map_resolution=MAP.resolution,
    )
    lines.update(
        decoder_ids=list(range(MODEL.line_decoder_layers)),
        in_channels=MODEL.hidden,
        hidden_dim=MODEL.hidden,
        nheads=MODEL.heads,
        dim_feedforward=MODEL.line_feedforward,
        dec_layers=MODEL.line_decoder_layers,
        mask_dim=MODEL.hidden,
        query_split=MAP.num_queries,
        max_pieces=MAP.max_points,
    )
    head.update(
        in_channel=MODEL.hidden,
        num_queries=list(MAP.num_queries),
        tgt_shape=MASK_SIZE,
        max_pieces=MAP.max_points,
        bev_channels=MODEL.hidden,
        ins_channel=MODEL.point_features,
    )
    models = importlib.import_module("mapmaster.models")
    parts = {
        "bev_decoder": models.bev_decoder.DeformTransformerBEVEncoder(**bev),
        "ins_decoder": models.ins_decoder.PointMask2formerINSDecoder(**lines),
        "output_head": models.output_head.PivotMapOutputHead(**head),
    }
    return nn.ModuleDict(parts)


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


def check_small(path: Path) -> list[Comparison]:
    """golden_small.npz: outputs and gradients for two samples, and the projection of the BEV grid."""
    recorded = np.load(path, allow_pickle=False)
    seed = int(recorded["seed"])
    cameras = list(zip(recorded["extrinsic"], recorded["intrinsic"]))
    reference = [torch.stack(part) for part in zip(*(project_bev_grid(*rig, MODEL.bev_size, MAP) for rig in cameras))]
    images = torch.zeros(BATCH, CAMERAS, 3, *MODEL.image_size)
    backbone = _Backbone()
    with mock.patch.object(network_module, "build_backbone", lambda model: backbone):
        network = PivotNet(MODEL, MAP)
    comparisons = []
    for mode in ("eval", "train"):
        rule.fill(network.state_dict())
        backbone.leaves = backbone_features(seed)
        predictions = network.train(mode == "train")(images, *reference)
        outputs = outputs_of(predictions, MASK_SIZE, queries=MAP.num_queries, points=MAP.max_points)
        comparison = Comparison(f"small network: {mode}", absolute=2e-5, each=1e-5)
        keys = {f"{mode}/{key}" for key in outputs}
        comparison.require(
            "other outputs are recorded", keys == {k for k in recorded.files if k.startswith(f"{mode}/")}
        )
        for key, tensor in outputs.items():
            comparison.add(*kept_pixels(f"{mode}/{key}", tensor, recorded))
        comparisons.append(comparison)
    functional(seed, outputs).backward()
    found = _gradients(network, backbone.leaves)
    total = math.hypot(*(float(recorded[key]) for key in found if key.startswith("gradient/")))
    norms = Comparison("small network: gradient norms", absolute=1e-6 * total, each=1e-4)
    gradients = Comparison("small network: gradients of features", relative=1e-5, each=1e-4)
    for key, value in found.items():
        (norms if key.startswith("gradient/") else gradients).add(key, value, recorded[key])
    statistics = Comparison("small network: running statistics", absolute=1e-6, each=1e-5)
    for key, buffer in network.named_buffers():
        if "running" in key:
            statistics.add(key, buffer.numpy(), recorded[f"after/{key}"])
    seen = Comparison("projection: cells that a camera sees")
    points = Comparison("projection: reference points", absolute=POINT_ABSOLUTE)
    for i, rig in enumerate(cameras):
        ours, valid = (tensor.numpy() for tensor in project_bev_grid(*rig, FULL_BEV, MapConfig()))
        seen.add(str(i), valid, recorded[f"projection/{i}/valid"])
        points.add(str(i), ours[valid], recorded[f"projection/{i}/points"][valid])
    return [*comparisons, norms, gradients, statistics, seen, points]


class _Backbone(nn.Module):
    """Gives the recorded features whatever the images are."""

    leaves: list[Tensor]

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.leaves
