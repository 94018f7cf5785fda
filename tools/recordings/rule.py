"""The rule by which the recordings of upstream were made: every weight from its name, every input from a seed.

With it no weights are shipped: a test fills a freshly built module and compares what comes out with a recording.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

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
