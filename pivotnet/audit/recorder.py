"""Counts what a training step asks of its device, by watching every operator. A tensor says which device it lives on; a
device that counts by itself (a simulated NPU) is asked instead. On the CPU, host and device share their memory, so
there the recorder keeps track: ``torch.device("cpu", 0)`` stands for the device and plain ``cpu`` for the host. A
tensor is on the device if it was moved or made there, or was computed from one that is; Python code that reads
``tensor.device`` gets that answer, and copies between the two are made and counted."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pivotnet import device as devices
from pivotnet.audit.counts import KNOWN_FALLBACKS, Audit, Counts, launches, operator_name, tensors_in, waits

PACKAGE = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent
SEAM = PACKAGE / "device.py"  # copies for others: the line of interest is the caller's
HOST = torch.device("cpu")
WIDE = (torch.float64, torch.complex128)
COPIES = {"_to_copy", "copy_", "_copy_from", "_copy_from_and_resize"}
# Names the module with the class Counters of a device that counts by itself: tools/cannsim/counters.py.
COUNTERS_MODULE = "PIVOTNET_DEVICE_COUNTERS"


def calling_line() -> str:
    """The innermost line of this package that is running, as ``criterion/transfer.py:31``; else the innermost line."""
    frame = sys._getframe(1)
    innermost = ""
    counters = os.environ.get(COUNTERS_MODULE)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if HERE not in path.parents and path != SEAM and frame.f_globals.get("__name__") != counters:
            if PACKAGE in path.parents:
                return f"{path.relative_to(PACKAGE)}:{frame.f_lineno}"
            if not innermost and "torch" not in path.parts and path.suffix == ".py":
                innermost = f"{path.name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return innermost or "autograd"


class Recorder(TorchDispatchMode):
    """Counts launches on the device, host waits, copies, collectives, fallbacks and float64, below autograd. A
    registered operator is one launch, whatever its kernel calls. ``enter`` says which phase comes next."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.audit = Audit()
        self.phase = next(iter(self.audit.phases))
        self.tracking = device.type == "cpu"
        self.device = torch.device("cpu", 0) if self.tracking else device
        counters = None if self.tracking else os.environ.get(COUNTERS_MODULE)
        self._counters = importlib.import_module(counters).Counters() if counters else None
        self._on_device: dict[int, StorageWeakRef] = {}  # storages, where the recorder keeps track
        self._paused = False

    @property
    def counts(self) -> Counts:
        """Of the running phase."""
        return self.audit.phases[self.phase]

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if self.tracking:
                stack.enter_context(_Crossings(self))
            stack.enter_context(self)
            if self._counters is not None:
                self._counters.watch(self._waited, self._fell_back)
                stack.callback(self._counters.unwatch)
            yield

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing in the block."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def enter(self, phase: str) -> None:
        """End the running phase and begin another."""
        self.end_phase()
        self.phase = phase

    def end_phase(self) -> None:
        """Take over a device's own counters when it has done all that the running phase asked of it."""
        if self._counters is not None:
            with self.paused():
                devices.synchronize(self.device)
            self._add(**self._counters.since())

    # ---- where tensors live ----

    def holds(self, tensor: Tensor) -> bool:
        """Whether the tensor lives on the device."""
        if not self.tracking:
            return tensor.device.type == self.device.type
        held = self._on_device.get(tensor.untyped_storage()._cdata)
        return held is not None and not held.expired()

    def take(self, tensors: Iterable[Tensor]) -> None:
        """From now on these live on the device; nothing to do where the device is a real one."""
        if self.tracking:
            for tensor in tensors:
                storage = tensor.untyped_storage()
                self._on_device[storage._cdata] = StorageWeakRef(storage)

    def release(self, tensor: Tensor) -> None:
        """This tensor lives on the host."""
        self._on_device.pop(tensor.untyped_storage()._cdata, None)

    def is_device(self, device: Any) -> bool:
        """Whether ``device`` (as an argument) means the audited one."""
        if device is None or isinstance(device, int):
            return False
        given = torch.device(device)
        return given == self.device if self.tracking else given.type == self.device.type

    # ---- counting: what follows from operators, unless the device counts it by itself ----

    def copied(self, tensor: Tensor, to_device: bool, waited: bool) -> None:
        """A tensor's bytes were copied between host and device, for which the host may have waited."""
        if self._counters is None:
            side = "to_device" if to_device else "to_host"
            self._add(**{f"{side}_copies": 1, f"{side}_bytes": tensor.numel() * tensor.element_size()})
            if waited:
                self._waited()

    def _add(self, **numbers: int) -> None:
        for name, number in numbers.items():
            setattr(self.counts, name, getattr(self.counts, name) + number)

    def _waited(self) -> None:
        if not self._paused:
            self.counts.host_waits += 1
            self.audit.wait_lines[self.phase, calling_line()] += 1

    def _fell_back(self, name: str) -> None:
        if not self._paused:
            self.audit.fallback_names[name] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self._paused:
            self._operator(func, args, kwargs, result)
        return result

    def _operator(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        inputs, outputs = tensors_in((args, kwargs)), tensors_in(result)
        here = [self.holds(tensor) for tensor in inputs]
        name, asked = operator_name(operator), self._counters is None
        if operator._schema.name.startswith("c10d::"):
            self.counts.collectives += asked and any(here)
            self.take(outputs)
            return
        if not self.tracking and name in COPIES and self._crosses(args, kwargs, outputs, here):
            return
        if not (any(here) or self.is_device(kwargs.get("device"))):
            return
        self.take(outputs)
        if asked and waits(operator, args):
            self._waited()
            if not outputs:  # a value: one number came back
                self.copied(inputs[0], to_device=False, waited=False)
        if not launches(operator) or name == "_local_scalar_dense":
            return
        self.audit.operators[self.phase, name] += 1
        self.counts.launches += 1
        self.audit.operand_bytes += sum(tensor.numel() * tensor.element_size() for tensor in inputs + outputs)
        if asked:
            self.counts.float64 += any(output.dtype in WIDE for output in outputs)
            if name in KNOWN_FALLBACKS:
                self.counts.cpu_fallbacks += 1
                self._fell_back(name)

    def _crosses(self, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[Tensor], here: list[bool]) -> bool:
        """Count a copy between host and device; False for a copy within one of them."""
        if not outputs or not here:
            return False
        source_here = here[-1]  # of copy_(self, src) the source is the last tensor
        target_here = self.holds(outputs[0])
        if source_here == target_here:
            return False
        asynchronous = bool(kwargs.get("non_blocking", args[2] if len(args) > 2 else False))
        self.copied(outputs[0], to_device=target_here, waited=not (asynchronous and target_here))
        return True


class _Crossings(TorchFunctionMode):
    """Sees Python calls that move tensors between the host and a tracked device, which are no operators on a CPU."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder
        self.device_getter = Tensor.device.__get__  # type: ignore[attr-defined]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        recorder = self.recorder
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

    def _moved(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], to_device: bool) -> Tensor:
        """Make a copy on the other side; only a copy to the device may be asynchronous."""
        recorder = self.recorder
        with recorder.paused():
            copy = func(*args, **kwargs)
        if to_device:
            recorder.take([copy])
        else:
            recorder.release(copy)
        recorder.copied(copy, to_device, waited=not (to_device and kwargs.get("non_blocking", False)))
        return copy
