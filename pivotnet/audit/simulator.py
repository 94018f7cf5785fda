"""The counters of a simulated device (tools/cannsim): what was really asked of it, not what operators promise."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Optional

# The counters of tools/cannsim/src/simulator.h, in their order.
COUNTERS = (
    "launches",
    "to_device_copies",
    "to_device_bytes",
    "to_host_copies",
    "to_host_bytes",
    "stream_waits",
    "device_waits",
    "event_waits",
    "collectives",
    "float64",
    "cpu_fallbacks",
)
WAITS = (b"stream", b"device", b"event")
# The counters that an audit takes over as they are.
TAKEN = tuple(name for name in COUNTERS if not name.endswith("_waits"))
FALLBACK = b"fallback "  # and the operator's name

_Hook = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_uint64)


class Simulator:
    """The simulated device of this process.

    Args:
        on_wait: called whenever the host waits for the device, on the waiting thread.
        on_fallback: called with the name of an operator that the CPU computes for the device.
    """

    def __init__(self, on_wait: Callable[[], None], on_fallback: Callable[[str], None]) -> None:
        self._library = ctypes.CDLL("libcannsim.so")
        self._library.cannsim_statistics.restype = ctypes.POINTER(ctypes.c_uint64)
        self._values = self._library.cannsim_statistics()
        self._on_wait, self._on_fallback = on_wait, on_fallback
        self._hook = _Hook(self._told)
        self._seen = self._read()

    def _told(self, kind: bytes, _: int) -> None:
        if kind in WAITS:
            self._on_wait()
        elif kind.startswith(FALLBACK):
            self._on_fallback(kind[len(FALLBACK) :].decode())

    def watch(self) -> None:
        """Call back from now on."""
        self._library.cannsim_set_wait_hook(self._hook)

    def leave(self) -> None:
        """Call back no more."""
        self._library.cannsim_set_wait_hook(None)

    def since(self) -> dict[str, int]:
        """The counters of TAKEN since the last call."""
        now = self._read()
        before, self._seen = self._seen, now
        return {name: now[name] - before[name] for name in TAKEN}

    def _read(self) -> dict[str, int]:
        return {name: int(self._values[index]) for index, name in enumerate(COUNTERS)}


def simulator(on_wait: Callable[[], None], on_fallback: Callable[[str], None]) -> Optional[Simulator]:
    """The simulated device, if this process runs on one (``tools/cannsim/run`` sets CANNSIM)."""
    return Simulator(on_wait, on_fallback) if os.environ.get("CANNSIM") else None
