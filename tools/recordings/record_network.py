"""Record upstream's networks: names and shapes, initialisation, outputs, a training trajectory."""

from __future__ import annotations

import importlib
import json
import math
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recordings import inputs, rule, shim
from recordings.record_criterion import as_targets

FEATURE_STEPS = {"swint": ((8, 4, 4), (16, 2, 2)), "res50": ((16, 4, 4), (32, 2, 2)), "effb0": ((4, 4, 4), (8, 2, 2))}
TRAJECTORY_STEPS = 10
INITIALISATION_DRAWS = 8
TRAJECTORY_COUNTS = "typical"  # the case of inputs.CASES whose number of instances the trajectory's target has


def record_state_dict(preset: str) -> dict[str, Any]:
    """state_dict_<preset>.json: names, shapes and kinds of all parameters and buffers."""
    network = shim.build(preset)
    parameters = dict(network.named_parameters())
    entries = {
        key: {
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).replace("torch.", ""),
            "kind": "param" if key in parameters else "buffer",
        }
        for key, tensor in network.state_dict().items()
    }
    return {
        "config": preset,
        "num_parameters": sum(p.numel() for p in parameters.values()),
        "num_state_dict_keys": len(entries),
        "state_dict": entries,
    }


def record_initialisation(preset: str, seed: int) -> dict[str, Any]:
    """initialisation_<preset>.json: mean, std, min, max of every parameter of freshly built networks, without the files
    of the backbones."""
    torch.manual_seed(seed)
    statistics = rule.initial_statistics(lambda: shim.build(preset), INITIALISATION_DRAWS)
    return {"config": preset, "draws": INITIALISATION_DRAWS, "parameters": statistics}


def network_inputs(seed: int, extrinsic: np.ndarray, intrinsic: np.ndarray) -> dict[str, Any]:
    """What upstream's network takes, full size, batch 1."""
    return {
        "images": rule.images(seed),
        "extra_infos": {"token": ["recording"]},
        "extrinsic": torch.from_numpy(extrinsic),
        "intrinsic": torch.from_numpy(intrinsic),
    }


def record_forward(preset: str, seed: int, mask_step: int) -> dict[str, np.ndarray]:
    """golden_forward_<preset>.npz: every output in evaluation and training mode, under no_grad; every
    ``mask_step``-th pixel of masks."""
    extrinsic, intrinsic = inputs.cameras(seed)
    images = rule.images(seed)
    record: dict[str, np.ndarray] = {
        "seed": np.int64(seed),
        "extrinsic": extrinsic,
        "intrinsic": intrinsic,
        "image_first8": images.flatten()[:8].numpy(),
        "image_sum": np.float64(images.double().sum().item()),
    }
    info: dict[str, Any] = {}
    network = shim.build(preset)
    for mode in ("eval", "train"):
        rule.fill(network.state_dict())
        network.train(mode == "train")
        features: list[Tensor] = []
        handle = network.im_backbone.register_forward_hook(_keep_features(features))
        began = time.perf_counter()
        with torch.no_grad():
            result = network(network_inputs(seed, extrinsic, intrinsic))
        info[mode] = {"seconds": round(time.perf_counter() - began, 1)}
        handle.remove()
        for name, rows in result["outputs"].items():
            for i, row in enumerate(rows):
                for j, tensor in enumerate(row):
                    kept = tensor[..., ::mask_step, ::mask_step] if name.endswith("masks") else tensor
                    record[f"{mode}/{name}/{i}/{j}"] = kept.numpy()
        for i, tensor in enumerate(result["bev_enc_features"]):
            record[f"{mode}/bev_enc_features/{i}"] = tensor[:, ::4, ::4, ::4].numpy()
        for i, (tensor, (c, h, w)) in enumerate(zip(features, FEATURE_STEPS[preset])):
            record[f"{mode}/bkb_features/{i}"] = tensor[:, ::c, ::h, ::w].numpy()
            record[f"{mode}/bkb_features_full_shape/{i}"] = np.array(tensor.shape)
    for key, tensor in network.state_dict().items():
        wanted = "input_proj" in key or key.endswith("_blocks.1._bn0.running_mean")
        if wanted and key.endswith(("running_mean", "running_var")):
            record[f"train/after/{key}"] = tensor.numpy()
    record["info"] = np.array(json.dumps(info))
    return record


def _keep_features(features: list[Tensor]) -> Any:
    def hook(module: nn.Module, arguments: Any, output: Any) -> None:
        # a copy: the BEV decoder overwrites the list in place
        features.extend(t.clone().flatten(0, -4) for t in output["im_bkb_features"])

    return hook


def record_trajectory(seed: int) -> tuple[dict[str, Any], dict[str, float], dict[str, np.ndarray]]:
    """golden_trajectory.json, golden_gradnorm_effb0_step0.json and golden_trajectory_sample.npz: ten AdamW steps."""
    extrinsic, intrinsic = inputs.cameras(seed)
    target = inputs.target(seed, TRAJECTORY_COUNTS)
    network = shim.build("effb0").train()
    rule.fill(network.state_dict())
    setup = importlib.import_module("pivotnet_nuscenes_swint").EXPConfig.optimizer_setup
    groups = importlib.import_module("mapmaster.utils.misc").get_param_groups(network, setup)
    optimiser = torch.optim.AdamW(groups)
    steps: list[dict[str, Any]] = []
    norms: dict[str, float] = {}
    for step in range(TRAJECTORY_STEPS):
        began = time.perf_counter()
        optimiser.zero_grad()
        result = network(network_inputs(seed, extrinsic, intrinsic))
        total, terms = network.post_processor(result["outputs"], as_targets(target))
        total.backward()
        gradients = {key: p.grad for key, p in network.named_parameters() if p.grad is not None}
        step_norms = {key: float(gradient.double().norm()) for key, gradient in gradients.items()}
        norms = norms or step_norms
        steps.append(
            {
                "step": step,
                "total": total.item(),
                **{name: float(value) for name, value in terms.items()},
                "grad_norm": math.hypot(*step_norms.values()),
                "param_norm": math.hypot(*(float(p.detach().double().norm()) for p in network.parameters())),
                "seconds": round(time.perf_counter() - began, 1),
                "params_without_grad": [key for key, _ in network.named_parameters() if key not in gradients],
            }
        )
        optimiser.step()
    sample = {"seed": np.int64(seed), "masks": target["masks"], "extrinsic": extrinsic, "intrinsic": intrinsic}
    for cls in range(3):
        sample[f"points{cls}"], sample[f"valid_len{cls}"] = target["points"][cls], target["valid_len"][cls]
    tracked = {int(t) for key, t in network.state_dict().items() if key.endswith("num_batches_tracked")}
    trajectory = {
        "meta": {"config": "effb0", "seed": seed, "optimizer_setup": setup},
        "steps": steps,
        "bn_num_batches_tracked_after": sorted(tracked),
    }
    return trajectory, norms, sample
