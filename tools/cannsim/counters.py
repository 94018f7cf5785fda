"""What a simulated NPU counted, for ``pivotnet audit``: what was really asked of it, not what operators promise."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from typing import Any

# The counters of src/simulator.h, in their order.
NAMES = (
    "calls", "to_device_copies", "to_device_bytes", "to_host_copies", "to_host_bytes",
    "stream_waits", "device_waits", "event_waits", "collectives", "float64", "cpu_fallbacks", "strided",
)  # fmt: skip
WAITS = (b"stream", b"device", b"event")
FALLBACK = b"fallback "  # and the operator's name

# By release and function: numbers of calls (all, outside, on the AI CPU, undocumented, unknown), of strided operands,
# and the first fault.
Judged = dict[str, dict[str, dict[str, Any]]]

_Hook = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_uint64)


class Counters:
    """The counters of this process's simulated NPUs, as pivotnet.audit.recorder.DeviceCounters asks for them."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcannsim.so")
        self._library.cannsim_statistics.restype = ctypes.POINTER(ctypes.c_uint64)
        self._values = self._library.cannsim_statistics()
        self._seen = self._read()

    def watch(self, on_wait: Callable[[], None], on_fallback: Callable[[str], None]) -> None:
        """Call back at every wait of the host, and at every operator that the CPU computes for the NPU."""

        def called(kind: bytes, _: int) -> None:
            if kind in WAITS:
                on_wait()
            elif kind.startswith(FALLBACK):
                on_fallback(kind[len(FALLBACK) :].decode())

        self._hook = _Hook(called)  # kept: the library does not
        self._library.cannsim_set_wait_hook(self._hook)

    def unwatch(self) -> None:
        """Call back no more."""
        self._library.cannsim_set_wait_hook(None)

    def since(self) -> dict[str, int]:
        """The counters but those of waits, since the last call."""
        now = self._read()
        before, self._seen = self._seen, now
        return {name: now[name] - before[name] for name in NAMES if not name.endswith("_waits")}

    def _read(self) -> dict[str, int]:
        return {name: int(self._values[index]) for index, name in enumerate(NAMES)}


def contract(mode: str | None = None, release: str | None = None) -> Judged:
    """What the contract made of the calls since the last time; afterwards ``mode`` and ``release``, if given, hold."""
    judge = ctypes.CDLL("libcannsim.so").cannsim_contract
    judge.restype = ctypes.c_char_p
    judged: Judged = json.loads(judge(*(word.encode() if word else None for word in (mode, release))))
    return judged


def faults(judged: Judged) -> list[str]:
    """Functions with a call that CANN does not take, that goes to the AI CPU, or of which no facts are known."""
    return [
        f"CANN {release}, {name}: {counts}"
        for release, functions in judged.items()
        for name, counts in functions.items()
        if counts["outside"] or counts["ai_cpu"] or counts["unknown"]
    ]
