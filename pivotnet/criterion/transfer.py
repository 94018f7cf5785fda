"""The criterion's only traffic between device and host. ``to_host`` is where the host waits for the device. Nothing
else in the criterion reads a device tensor's value."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pivotnet import device as devices


def to_host(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """Copy tensors of one device, cast to float32, to the host in a single blocking copy. Returns float32 arrays of the
    same shapes, views of one buffer."""
    packed = torch.cat([tensor.detach().flatten().float() for tensor in tensors])
    return _split(devices.to_host(packed).numpy(), [tuple(tensor.shape) for tensor in tensors])


def to_device(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Copy host arrays of a few types to ``device``: one copy a type, for which the host does not wait. Returns tensors
    of the same shapes and types, views of one buffer a type."""
    moved: dict[int, Tensor] = {}
    for dtype in {array.dtype for array in arrays}:
        same = [index for index, array in enumerate(arrays) if array.dtype == dtype]
        packed = torch.from_numpy(np.concatenate([arrays[index].ravel() for index in same]))
        if devices.pin_memory(device):
            packed = packed.pin_memory()  # else the host would wait, or the memory be freed before it is copied
        packed = packed.to(device, non_blocking=True)
        moved.update(zip(same, _split(packed, [arrays[index].shape for index in same])))
    return [moved[index] for index in range(len(arrays))]


def _split(packed, shapes: Sequence[tuple[int, ...]]) -> list:
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    return [packed[end - int(np.prod(shape)) : end].reshape(shape) for shape, end in zip(shapes, ends)]
