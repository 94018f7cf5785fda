"""Record upstream's backbones on small images: ``python test/golden/backbone/record.py CHECKOUT``.

Needs tools/ and test/golden/ on PYTHONPATH and what recordings.shim needs. Writes small_<preset>.npz beside this file:
features in evaluation and training mode, a fingerprint of every gradient, running statistics after the step, and how
far all of them are from the same in float64.
"""

from __future__ import annotations

import contextlib
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from recordings import rule, shim
from torch import Tensor, nn

FOLDER = Path(__file__).resolve().parent
IMAGES_SEED = 7
MASKS_SEED = 3  # of stochastic depth
# Neither side is a multiple of 32 (upstream's padding then depends on the backbone); in Swin's last stage a side is
# shorter than the shift of the windows, in the one before it a map is exactly one window wide.
IMAGES_SHAPE = (3, 3, 56, 104)
CHANNEL_STEPS = {"swint": (8, 16), "res50": (16, 32), "effb0": (2, 4)}


def weights_of(features: Tensor, level: int) -> Tensor:
    """Fixed random weights of a scalar to differentiate: the weighted sum of all features."""
    return rule.images(level, tuple(features.shape)).to(features.dtype)


def fingerprint(key: str, tensor: Tensor) -> tuple[float, float]:
    """Norm of a tensor, and its product with a random unit vector that depends on its name."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    direction = generator.standard_normal(tuple(tensor.shape))
    values = tensor.detach().double().numpy()
    return float(np.sqrt((values**2).sum())), float((values * direction).sum() / np.sqrt((direction**2).sum()))


def observe(backbone: nn.Module, forward, preset: str) -> dict[str, np.ndarray]:
    """Everything that is recorded of a backbone whose keys begin with ``bkb.``; ``forward``: images -> two features."""
    dtype = next(backbone.parameters()).dtype
    images = rule.images(IMAGES_SEED, IMAGES_SHAPE).to(dtype)
    record = {}
    for mode in ("eval", "train"):
        rule.fill(backbone.state_dict(), "im_backbone.")
        backbone.train(mode == "train")
        torch.manual_seed(MASKS_SEED)
        with torch.set_grad_enabled(mode == "train"):
            features = forward(images)
        for level, (feature, step) in enumerate(zip(features, CHANNEL_STEPS[preset])):
            record[f"{mode}/features/{level}"] = feature.detach()[:, ::step].numpy()
    backbone.zero_grad()
    sum((feature * weights_of(feature, level)).sum() for level, feature in enumerate(features)).backward()
    gradients = {key: fingerprint(key, parameter.grad) for key, parameter in backbone.named_parameters()}
    record["gradients/keys"] = np.array(list(gradients))
    record["gradients/values"] = np.array(list(gradients.values()))  # [parameters, 2]
    running = {key: value for key, value in backbone.state_dict().items() if "running" in key or "tracked" in key}
    if running:
        record["running/keys"] = np.array(list(running))
        record["running/values"] = np.array([fingerprint(key, value) for key, value in running.items()])
    return record


@contextlib.contextmanager
def random_numbers_of_float32() -> Iterator[None]:
    """A double takes twice the random bits of a float: let stochastic depth leave out the same branches in float64."""
    rand = torch.rand
    torch.rand = lambda *args, dtype, **kwargs: rand(*args, dtype=torch.float32, **kwargs).to(dtype)
    try:
        yield
    finally:
        torch.rand = rand


def record(preset: str) -> dict[str, np.ndarray]:
    """small_<preset>.npz"""
    result = {}
    for dtype in (torch.float32, torch.float64):
        network = shim.build(preset, deterministic=False).im_backbone.to(dtype)
        with random_numbers_of_float32():
            observed = observe(network, lambda x, net=network: net({"images": x})["im_bkb_features"], preset)
        for key, value in observed.items():
            if dtype == torch.float32:
                result[key] = value
            elif not key.endswith("keys"):
                result[f"noise/{key}"] = np.abs(value - result[key]).max(axis=-1 if value.ndim == 2 else None)
    return result


if __name__ == "__main__":
    shim.import_upstream(Path(sys.argv[1]))
    for name in CHANNEL_STEPS:
        np.savez_compressed(FOLDER / f"small_{name}.npz", **record(name))
