"""Compare our networks with the recordings: names, shapes, initialisation, outputs, training."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pivotnet.config import Config, preset
from pivotnet.criterion.criterion import Criterion
from pivotnet.data.projection import project_bev_grid
from pivotnet.data.targets import build_targets
from pivotnet.model.pivotnet import PivotNet
from pivotnet.structures import Predictions
from pivotnet.training.optim import build_optimizer
from recordings import rule
from recordings.check_criterion import split_classes
from recordings.close_calls import CloseCalls
from recordings.verdict import Comparison, Row

# Five times the largest difference between upstream in float32 and upstream in float64 (noise_floor_*.json of three
# presets and two modes): two float32 programmes that differ only in the order of their sums each stray by up to that
# floor, and the floor was measured on one seed.
OUTPUT_ABSOLUTE = {
    "obj_logits": 1.3e-5,
    "ctr_im": 4e-6,
    "pts_logits": 5.5e-6,
    "ins_masks": 1.4e-3,
    "sem_masks": 2e-4,
    "bev_enc_features": 1.2e-4,
    "bkb_features": 1e-4,
}
# Running statistics are means over thousands of float32 features.
STATISTICS_RELATIVE = 1e-5
# Training is chaotic: upstream with one and with two threads differs by 4e-8, 7e-6, 1.4e-3, 9e-3 at steps 0 to 3.
STEP_RELATIVE = {0: 1e-5, 1: 1e-4}
LATER_STEPS_RELATIVE = 0.1
# Some gradients are pure rounding (a bias in front of a batch norm): they are bounded by the total norm.
GRADNORM_OWN, GRADNORM_TOTAL = 1e-4, 1e-6
# The gradient of a sampling location jumps where a sample changes its cell, and the first layers' batch norms magnify
# rounding, so that single norms stray further. Upstream with one and with two threads strays from itself by these parts
# of the tolerance (seeds 1234 and 5): median 0.010 and 0.019, 95th percentile 0.32 and 2.2, largest 3.9 and 10.3.
# Allowed is five times the larger.
GRADNORM_QUANTILES = {"median": (0.5, 5 * 0.019), "95 %": (0.95, 5 * 2.2), "largest": (1.0, 5 * 10.3)}
# Initial values are random: statistics of n draws stray by about 1/sqrt(n); 6 deviations are never seen by chance.
INITIALISATION_DEVIATIONS = 6.0
OUR_DRAWS = 4


def quiet(name: str, checkpointing: bool = True) -> Config:
    """The preset with dropout, drop path and drop connect off, as recordings are made."""
    config = preset(name)
    model = dataclasses.replace(config.model, dropout=0.0, drop_path=0.0, drop_connect=0.0, checkpointing=checkpointing)
    return dataclasses.replace(config, model=model)


def build(config: Config) -> PivotNet:
    """The network with the weights of the rule."""
    network = PivotNet(config.model, config.map)
    rule.fill(network.state_dict())
    return network


def check_state_dict(path: Path, name: str) -> list[Row]:
    """state_dict_<preset>.json: names, order, shapes, types, number of parameters."""
    recorded = json.loads(path.read_text())
    config = preset(name)
    network = PivotNet(config.model, config.map)
    parameters = dict(network.named_parameters())
    comparison = Comparison(f"{name}: names and shapes")
    ours = {
        key: (list(t.shape), str(t.dtype).replace("torch.", ""), "param" if key in parameters else "buffer")
        for key, t in network.state_dict().items()
    }
    theirs = {key: (e["shape"], e["dtype"], e["kind"]) for key, e in recorded["state_dict"].items()}
    for key in sorted(ours.keys() | theirs.keys()):
        comparison.compared += 1
        if ours.get(key) != theirs.get(key):
            comparison.fail(f"{key}: {ours.get(key)}, recorded {theirs.get(key)}")
    comparison.add("parameters", sum(p.numel() for p in parameters.values()), recorded["num_parameters"])
    return [comparison.row()]


def check_initialisation(path: Path, name: str) -> list[Row]:
    """initialisation_<preset>.json: mean, deviation and range of every parameter; constants exactly."""
    recorded = json.loads(path.read_text())
    config = preset(name)
    torch.manual_seed(0)
    ours = rule.initial_statistics(lambda: PivotNet(config.model, config.map), OUR_DRAWS)
    sizes = {key: p.numel() for key, p in PivotNet(config.model, config.map).named_parameters()}
    constants = Comparison(f"{name}: initialisation, constants")
    draws = Comparison(f"{name}: initialisation, random", absolute=INITIALISATION_DEVIATIONS)
    for key in ours.keys() ^ recorded["parameters"].keys():
        constants.fail(f"{key} is a parameter on one side only")
    for key in ours.keys() & recorded["parameters"].keys():
        mine, theirs = ours[key], recorded["parameters"][key]
        if theirs["std"] == 0 or mine["std"] == 0:
            constants.add(key, np.array(list(mine.values())), np.array([theirs[k] for k in mine]))
        else:
            strayed = _deviations(mine, theirs, OUR_DRAWS * sizes[key], recorded["draws"] * sizes[key])
            draws.add(key, np.array(strayed), np.zeros(len(strayed)))
    return [constants.row(), draws.row()]


def _deviations(ours: dict[str, float], theirs: dict[str, float], n_ours: int, n_theirs: int) -> list[float]:
    """By how many of its own deviations each statistic strays from the recorded one.

    Of n draws with deviation s, the mean has the deviation s/sqrt(n) and the deviation about s/sqrt(2n). The largest
    magnitude tells a uniform from a normal distribution of the same s: at s sqrt(3) and at about s sqrt(2 ln n); it is
    compared from 1000 draws on, where its own scatter is about s/sqrt(2 ln n).
    """
    scale = max(ours["std"], theirs["std"])
    spread = scale * math.sqrt(1 / n_ours + 1 / n_theirs)
    result = [(ours["mean"] - theirs["mean"]) / spread, (ours["std"] - theirs["std"]) / spread * math.sqrt(2)]
    if n_ours >= 1000:
        reach = [max(abs(s["min"]), abs(s["max"])) for s in (ours, theirs)]
        growth = scale * (math.sqrt(2 * math.log(max(n_ours, n_theirs))) - math.sqrt(2 * math.log(n_ours)))
        result.append(max(0.0, abs(reach[0] - reach[1]) - growth) / (scale / math.sqrt(2 * math.log(n_ours))))
    return result


def check_forward(path: Path, name: str, modes: tuple[str, ...] = ("eval", "train")) -> list[Row]:
    """golden_forward_<preset>.npz: every output, both modes, and running statistics after the training pass."""
    recorded = np.load(path, allow_pickle=False)
    seed = int(recorded["seed"])
    images = rule.images(seed)
    if not np.array_equal(images.flatten()[:8].numpy(), recorded["image_first8"]):
        raise ValueError(f"{path}: this numpy draws other random numbers than the recording's; nothing can be compared")
    config = quiet(name)
    reference = project_bev_grid(recorded["extrinsic"][0], recorded["intrinsic"][0], config.model.bev_size, config.map)
    rows = []
    for mode in modes:
        calls = CloseCalls(config.map, OUTPUT_ABSOLUTE["ins_masks"])
        while True:
            network = build(config).train(mode == "train")
            features = _Features(network, config.model.bev_size)
            with calls.decide(network), torch.no_grad():
                predictions = network(images, *(tensor[None] for tensor in reference))
            recorded_points = [
                np.concatenate([recorded[f"{mode}/ctr_im/{i}/{c}"].reshape(1, -1, 2) for c in range(3)], axis=1)
                for i in range(len(predictions.points))
            ]
            if not calls.reconsider(predictions.points.numpy() - recorded_points, OUTPUT_ABSOLUTE["ctr_im"]):
                break
        comparisons = {
            key: Comparison(f"{name}: {mode} {key}", absolute=limit) for key, limit in OUTPUT_ABSOLUTE.items()
        }
        for key, field in _OUTPUTS.items():
            output = getattr(predictions, field)
            output = upsampled(output, config.mask_size) if key in ("ins_masks", "sem_masks") else output
            for i, row in enumerate(split_classes(key, output.numpy())):
                for j, array in enumerate(row):
                    _add(comparisons[key], f"{mode}/{key}/{i}/{j}", array, recorded)
        for i, tensor in enumerate(features.bev):
            _add(comparisons["bev_enc_features"], f"{mode}/bev_enc_features/{i}", tensor, recorded)
        for i, tensor in enumerate(features.backbone):
            _add(comparisons["bkb_features"], f"{mode}/bkb_features/{i}", tensor, recorded)
        rows += [comparison.row() for comparison in comparisons.values()]
        if calls.flipped:
            told = Comparison(f"{name}: {mode} attention cells decided as recorded", absolute=calls.closest)
            for (layer, instance, cell), logit in calls.flipped.items():
                told.add(f"layer {layer}, instance {instance}, cell {cell}", np.array(logit), np.array(0.0))
            rows.append(told.row())
        if mode == "train":
            rows.append(_running_statistics(network, name, recorded))
    return rows


_OUTPUTS = {
    "obj_logits": "object_logits",
    "ctr_im": "points",
    "pts_logits": "point_logits",
    "ins_masks": "masks",
    "sem_masks": "semantic_logits",
}


def upsampled(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """[..., h, w] on the BEV grid -> [..., H, W], as upstream's head does it."""
    pixels = torch.nn.functional.interpolate(
        logits.flatten(0, -3)[None], size=size, mode="bilinear", align_corners=True
    )
    return pixels.view(*logits.shape[:-2], *size)


class _ChannelsLastGradient(torch.autograd.Function):
    """Identity whose gradient comes in channels-last order."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return gradient.contiguous(memory_format=torch.channels_last)


class _RecordedBatchNorm(torch.nn.Module):
    """The batch norm of an input projection as it ran for the recordings.

    torch's CPU kernel computes a wrong gradient when a contiguous input meets a channels-last gradient: that of the
    bias is not the sum of the output's gradient (seen with torch 2.8 and 2.13; CUDA is not concerned). Upstream's
    layout runs into it, ours does not. To compare everything behind it, the comparison runs into it as well.
    """

    def __init__(self, norm: Any, cameras: int) -> None:
        super().__init__()
        self.norm, self.cameras = norm, cameras

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B*V, C, h, w] -> [B*V, C, h, w], normalised with the cameras side by side."""
        _, channels, height, width = x.shape
        views = x.view(-1, self.cameras, channels, height, width)
        joined = views.permute(0, 2, 3, 1, 4).reshape(len(views), channels, height, -1)
        norm = self.norm
        norm.num_batches_tracked.add_(1)
        joined = torch.nn.functional.batch_norm(
            joined, norm.running_mean, norm.running_var, norm.weight, norm.bias, True, norm.momentum, norm.eps
        )
        joined = _ChannelsLastGradient.apply(joined)
        views = joined.view(len(views), channels, height, self.cameras, width).permute(0, 3, 1, 2, 4)
        return views.reshape(x.shape)


def run_as_recorded(network: PivotNet) -> None:
    """Give the input projections the batch norms of the recordings; parameters keep their order, not their names."""
    encoder: Any = network.bev_decoder["bev_encoder"]
    for projection in encoder.input_proj:
        projection[1] = _RecordedBatchNorm(projection[1], encoder.cameras)


class _Features:
    """Keeps what the backbone and the BEV encoder hand on."""

    def __init__(self, network: PivotNet, bev_size: tuple[int, int]) -> None:
        self.backbone: list[np.ndarray] = []
        self.bev: list[np.ndarray] = []
        network.im_backbone.register_forward_hook(lambda m, i, o: self.backbone.extend(t.numpy() for t in o))
        network.bev_decoder["bev_encoder"].register_forward_hook(
            # [E, B, N, hidden] -> E times [B, hidden, rows, columns]
            lambda m, i, o: self.bev.extend(t.transpose(1, 2).unflatten(2, bev_size).numpy() for t in o)
        )


def _add(comparison: Comparison, key: str, array: np.ndarray, recorded: Any) -> None:
    """Compare after the subsampling that the shapes of the recording tell: a step an axis."""
    if key not in recorded:
        comparison.fail(f"{key} is not recorded")
        return
    theirs = recorded[key]
    if theirs.ndim == array.ndim:
        steps = [max(1, math.ceil(have / max(kept, 1))) for have, kept in zip(array.shape, theirs.shape)]
        array = array[tuple(slice(None, None, step) for step in steps)]
    comparison.add(key, array, theirs)


def _running_statistics(network: PivotNet, name: str, recorded: Any) -> Row:
    comparison = Comparison(f"{name}: running statistics", relative=STATISTICS_RELATIVE)
    state = network.state_dict()
    for key in (key for key in recorded.files if key.startswith("train/after/")):
        comparison.add(key, state[key[len("train/after/") :]].numpy(), recorded[key])
    return comparison.row()


def check_trajectory(folder: Path, checkpointing: bool = True, steps: int | None = None) -> list[Row]:
    """golden_trajectory*: losses, gradient norms and batch counts of AdamW steps on one sample.

    Args:
        checkpointing: of the backbone; either way the numbers must be upstream's.
        steps: only the first so many.
    """
    recorded = json.loads((folder / "golden_trajectory.json").read_text())
    norms = json.loads((folder / "golden_gradnorm_effb0_step0.json").read_text())
    sample = np.load(folder / "golden_trajectory_sample.npz", allow_pickle=False)
    config = quiet(recorded["meta"]["config"], checkpointing)
    network = build(config).train()
    run_as_recorded(network)
    criterion = Criterion(config)
    points, lengths = ({c: sample[f"{key}{c}"] for c in range(3)} for key in ("points", "valid_len"))
    targets = build_targets([(sample["masks"], points, lengths)], config)
    cameras = sample["extrinsic"][0], sample["intrinsic"][0]
    reference = [t[None] for t in project_bev_grid(*cameras, config.model.bev_size, config.map)]
    images = rule.images(int(sample["seed"]))
    rates = (config.optim.lr, config.optim.backbone_lr)
    optimizer = build_optimizer(network, config.optim, rates, torch.device("cpu"))
    label = f"training, checkpointing {'on' if checkpointing else 'off'}"
    losses = {step: Comparison(f"{label}: step {step}", relative=limit) for step, limit in STEP_RELATIVE.items()}
    later = Comparison(f"{label}: later steps", relative=LATER_STEPS_RELATIVE)
    gradients = {
        name: Comparison(f"{label}: gradient norms of step 0, {name}", absolute=limit)
        for name, (_, limit) in GRADNORM_QUANTILES.items()
    }
    for entry in recorded["steps"][:steps]:
        optimizer.zero_grad(set_to_none=True)
        predictions: Predictions = network(images, *reference)
        result = criterion(predictions, targets)
        result.total.backward()
        comparison = losses.get(entry["step"], later)
        comparison.add(f"step {entry['step']}", result.total.item(), entry["total"])
        if entry["step"] == 0:
            _compare_norms(gradients, network, norms)
        optimizer.step()
    rows = [c.row() for c in (*losses.values(), *gradients.values()) if c.compared] + (
        [later.row()] if later.compared else []
    )
    tracked = {int(t) for key, t in network.state_dict().items() if key.endswith("num_batches_tracked")}
    if steps is None and checkpointing:
        counts = Comparison(f"{label}: batches counted")
        counts.add("num_batches_tracked", sorted(tracked), recorded["bn_num_batches_tracked_after"])
        rows.append(counts.row())
    return rows


def _compare_norms(comparisons: dict[str, Comparison], network: PivotNet, recorded: dict[str, float]) -> None:
    """Quantiles of the differences of gradient norms, in units of the tolerance."""
    total = math.hypot(*recorded.values())
    ours = {
        re.sub(r"(input_proj\.\d\.1)\.norm\.", r"\1.", key): float(p.grad.double().norm())  # see _RecordedBatchNorm
        for key, p in network.named_parameters()
        if p.grad is not None
    }
    for key in ours.keys() ^ recorded.keys():
        comparisons["largest"].fail(f"{key} has a gradient on one side only")
    strayed = {
        key: abs(ours[key] - recorded[key]) / (GRADNORM_OWN * recorded[key] + GRADNORM_TOTAL * total)
        for key in ours.keys() & recorded.keys()
    }
    for name, (part, _) in GRADNORM_QUANTILES.items():
        value = float(np.quantile(list(strayed.values()), part))
        comparisons[name].add(min(strayed, key=lambda key: abs(strayed[key] - value)), np.array(value), np.array(0.0))
