"""Counts what a block of code asks of a device, by watching every operator.

On a real device a tensor says where it lives; a simulated one counts by itself what is asked of it. On the CPU, host
and device share their memory, so there the recorder plays a device: ``torch.device("cpu", 0)`` stands for the card and
plain ``cpu`` for the host. A tensor lives on the card if it was moved or made there, or was computed from one that
does; Python code that asks a tensor for its device is told so, and copies between the two are made and counted as they
would be.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from pivotnet import device as devices
from pivotnet.audit import operators
from pivotnet.audit.counts import Audit, Counts
from pivotnet.audit.phases import Phases
from pivotnet.audit.simulator import simulator

PACKAGE = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent
SEAM = PACKAGE / "device.py"  # copies for others: the line of interest is the caller's
HOST = torch.device("cpu")
WIDE = (torch.float64, torch.complex128)
COPIES = {"_to_copy", "copy_", "_copy_from", "_copy_from_and_resize"}


def calling_line() -> str:
    """The innermost line of this package that is running, as ``criterion/transfer.py:31``; else the innermost line."""
    frame = sys._getframe(1)
    innermost = ""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if HERE not in path.parents and path != SEAM:
            if PACKAGE in path.parents:
                return f"{path.relative_to(PACKAGE)}:{frame.f_lineno}"
            if not innermost and "torch" not in path.parts and path.suffix == ".py":
                innermost = f"{path.name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return innermost or "autograd"


class Recorder:
    """Counts into an Audit while ``recording()``.

    Args:
        device: where the training step runs.
        phases: names the phase that a count belongs to.
    """

    def __init__(self, device: torch.device, phases: Phases) -> None:
        self.plays = device.type == "cpu"
        self.device = torch.device("cpu", 0) if self.plays else device
        self.phases = phases
        self.audit = Audit()
        self._paused = False
        self._simulator = None if self.plays else simulator(self._waited, self._fell_back)
        self._there: dict[int, StorageWeakRef] = {}  # storages that the played card holds

    @property
    def counts(self) -> Counts:
        """Of the running phase."""
        return self.audit.phases[self.phases.current]

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Count the operators of the block."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(_Crossings(self))
            stack.enter_context(_Operators(self))
            if self._simulator is not None:
                self._simulator.watch()
                stack.callback(self._simulator.leave)
            yield

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing in the block."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def end_phase(self) -> None:
        """Let the device finish what the running phase asked, and take over a simulated one's counters."""
        if self._simulator is None:
            return
        with self.paused():
            devices.synchronize(self.device)
        for name, number in self._simulator.since().items():
            setattr(self.counts, name, getattr(self.counts, name) + number)

    # ---- where tensors live ----

    def holds(self, tensor: Tensor) -> bool:
        """Whether the tensor lives on the device."""
        if not self.plays:
            return tensor.device.type == self.device.type
        held = self._there.get(tensor.untyped_storage()._cdata)
        return held is not None and not held.expired()

    def take(self, tensors: Iterable[Any]) -> None:
        """From now on these live on the played card; a real device knows its own."""
        if self.plays:
            for tensor in tensors:
                if isinstance(tensor, Tensor):
                    storage = tensor.untyped_storage()
                    self._there[storage._cdata] = StorageWeakRef(storage)

    def release(self, tensor: Tensor) -> None:
        """This tensor lives on the host."""
        self._there.pop(tensor.untyped_storage()._cdata, None)

    def is_device(self, device: Any) -> bool:
        """Whether ``device`` (as an argument) means the audited one."""
        if device is None or isinstance(device, int):
            return False
        given = torch.device(device)
        return given == self.device if self.plays else given.type == self.device.type

    # ---- counting ----

    def launch(self, name: str) -> None:
        """An operator ran on the device."""
        if self._paused:
            return
        self.audit.operators[self.phases.current, name] += 1
        if self._simulator is None:
            self.counts.launches += 1

    def wait(self) -> None:
        """The host waited for the device, as operators tell."""
        if self._simulator is None:
            self._waited()

    def _waited(self) -> None:
        if not self._paused:
            self.counts.host_waits += 1
            self.audit.wait_lines[self.phases.current, calling_line()] += 1

    def copied(self, tensor: Tensor, to_device: bool) -> None:
        """A tensor's bytes went over the bus."""
        if self._paused or self._simulator is not None:
            return
        amount = tensor.numel() * tensor.element_size()
        if to_device:
            self.counts.to_device_copies += 1
            self.counts.to_device_bytes += amount
        else:
            self.counts.to_host_copies += 1
            self.counts.to_host_bytes += amount

    def operator(self, operator: Any, args: tuple, kwargs: dict[str, Any], result: Any) -> None:
        """Take in one operator that has run."""
        inputs = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)]
        here = [self.holds(tensor) for tensor in inputs]
        name = operators.operator_name(operator)
        if operator._schema.name.startswith("c10d::"):
            if any(here) and not self._paused and self._simulator is None:
                self.counts.collectives += 1
            self.take(outputs)
            return
        if not self.plays and name in COPIES and self._crosses(args, kwargs, outputs, here):
            return
        if not (any(here) or self.is_device(kwargs.get("device"))):
            return
        self.take(outputs)
        if self._paused:
            return
        if operators.waits(operator, args):
            self.wait()
            if not outputs:  # a value: one number came back
                self.copied(inputs[0], to_device=False)
        if not operators.launches(operator) or name == "_local_scalar_dense":
            return
        self.launch(name)
        if self._simulator is None and any(output.dtype in WIDE for output in outputs):
            self.counts.float64 += 1
        if self._simulator is None and name in operators.KNOWN_FALLBACKS:
            self.counts.cpu_fallbacks += 1
            self._fell_back(name)

    def _fell_back(self, name: str) -> None:
        if not self._paused:
            self.audit.fallback_names[name] += 1

    def _crosses(self, args: tuple, kwargs: dict[str, Any], outputs: list[Tensor], here: list[bool]) -> bool:
        """Count a copy between host and device; False for a copy within one of them."""
        if not outputs or not here:
            return False
        source_here = here[-1]  # of copy_(self, src) the source is the last tensor
        target_here = self.holds(outputs[0])
        if source_here == target_here:
            return False
        self.copied(outputs[0], to_device=target_here)
        asynchronous = bool(kwargs.get("non_blocking", args[2] if len(args) > 2 else False))
        if not (asynchronous and target_here):
            self.wait()
        return True


class _Operators(TorchDispatchMode):
    """Sees every operator below autograd, in forward and backward."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Optional[dict] = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.recorder.operator(func, args, kwargs, result)
        return result


class _Crossings(TorchFunctionMode):
    """Sees Python calls that move tensors between host and the played card, which are no operators on a CPU."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder
        self.device_getter = Tensor.device.__get__  # type: ignore[attr-defined]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Optional[dict] = None) -> Any:
        kwargs = kwargs or {}
        recorder = self.recorder
        if not recorder.plays:
            return func(*args, **kwargs)
        if func == self.device_getter:
            return recorder.device if recorder.holds(args[0]) else func(*args, **kwargs)
        if func in (torch.tensor, torch.as_tensor) and recorder.is_device(kwargs.get("device")):
            return self._moved(func, args, kwargs, to_device=True)
        if func in (Tensor.cpu, Tensor.numpy, Tensor.tolist, Tensor.__array__) and recorder.holds(args[0]):
            host = self._moved(Tensor.to, (args[0], HOST), {"copy": True}, to_device=False)
            return host if func is Tensor.cpu else func(host, *args[1:], **kwargs)
        if func is Tensor.to:
            target = kwargs.get("device", args[1] if len(args) > 1 else None)
            if isinstance(target, (torch.device, str)):
                there, back = recorder.is_device(target), torch.device(target) == HOST
                held = recorder.holds(args[0])
                if (there and not held) or (back and held):
                    return self._moved(func, args, {**kwargs, "copy": True}, to_device=there)
                if there:  # to where it is: a CPU would copy, because the index is another
                    if "device" in kwargs:
                        return func(*args, **{**kwargs, "device": HOST})
                    return func(args[0], HOST, *args[2:], **kwargs)
        return func(*args, **kwargs)

    def _moved(self, func: Any, args: tuple, kwargs: dict[str, Any], to_device: bool) -> Tensor:
        """Make a copy on the other side; only a copy to the device may be asynchronous."""
        recorder = self.recorder
        with recorder.paused():
            copy = func(*args, **kwargs)
        if to_device:
            recorder.take([copy])
        else:
            recorder.release(copy)
        recorder.copied(copy, to_device)
        if not (to_device and kwargs.get("non_blocking", False)):
            recorder.wait()
        return copy
