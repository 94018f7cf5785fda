"""Bytes of tensors at the most: what a card's allocator would tell, of a CPU.

The resident set of a process also holds what its malloc keeps, in one policy or another, and libraries.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile


def peak_of_tensors(run: Callable[[], None]) -> int:
    """How many bytes more than at its start torch's CPU allocator has given out at the most during ``run``."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_bytes())["traceEvents"]
    changes = [(event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]"]
    now = most = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        now += change
        most = max(most, now)
    return most


def bytes_kept(network: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of weights, buffers and the optimiser's state, which stay from step to step."""
    states = (value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))
    return _size(network.parameters()) + _size(network.buffers()) + _size(states)


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
