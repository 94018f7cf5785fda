"""The rule by which the recordings of upstream were made: every weight from its name, every input from a seed.

With it no weights are shipped: a test fills a freshly built module and compares what comes out with a recording.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

EMBEDDINGS = ("query_feat", "query_embed", "level_embed.weight", "pos_embed.weight")
LEFT_ALONE = ("empty_weight", "collinear_pt_weight")  # constant buffers of the criterion
FULL_IMAGES = (1, 6, 3, 512, 896)


def value(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 value of a floating-point parameter or running statistic of that full name and shape."""
    z = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape)
    if key.endswith("running_mean"):
        z = 0.1 * z
    elif key.endswith("running_var"):
        z = 1 + 0.1 * np.abs(z)
    elif key.endswith(EMBEDDINGS):
        pass
    elif len(shape) >= 2:
        z = z * math.sqrt(1 / math.prod(shape[1:]))
    elif key.endswith("weight"):
        z = 1 + 0.1 * z  # one-dimensional weights belong to normalisation layers
    else:
        z = 0.1 * z
    return z.astype(np.float32)


@torch.no_grad()
def fill(module_state: Mapping[str, Tensor], prefix: str = "") -> None:
    """Overwrite the tensors of a ``state_dict()`` in place; integer buffers and constants stay as constructed.

    Args:
        module_state: what ``module.state_dict()`` returns.
        prefix: what goes before a key to give its full name in the network, with the dot (``"im_backbone."``).
    """
    for name, tensor in module_state.items():
        if torch.is_floating_point(tensor) and not name.endswith(LEFT_ALONE):
            tensor.copy_(torch.from_numpy(value(prefix + name, tuple(tensor.shape))))


def images(seed: int, shape: tuple[int, ...] = FULL_IMAGES) -> Tensor:
    """Normalised images of unit variance, float32, ``shape`` (full size: [1, 6, 3, 512, 896])."""
    z = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)
    return torch.from_numpy(z.astype(np.float32))


def initial_statistics(build: Callable[[], nn.Module], draws: int) -> dict[str, dict[str, float]]:
    """Mean, population standard deviation, minimum and maximum of every parameter over so many fresh constructions; one
    alone says little of a bias of two values."""
    each: dict[str, list[tuple[float, ...]]] = {}
    for _ in range(draws):  # one network at a time: memory
        for key, parameter in build().named_parameters():
            values = parameter.detach().double()
            variance = values.var(unbiased=False)
            each.setdefault(key, []).append(tuple(map(float, (values.mean(), variance, values.min(), values.max()))))
    return {key: _joined(*map(np.array, zip(*parts))) for key, parts in each.items()}


def _joined(means: np.ndarray, variances: np.ndarray, lows: np.ndarray, highs: np.ndarray) -> dict[str, float]:
    """Statistics of draws of the same size, joined."""
    low, high, mean = float(lows.min()), float(highs.max()), float(means.mean())
    if low == high:
        return {"mean": low, "std": 0.0, "min": low, "max": high}
    deviation = math.sqrt((variances + (means - mean) ** 2).mean())
    return {"mean": mean, "std": deviation, "min": low, "max": high}
