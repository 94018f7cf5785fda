"""The numbers of an audit."""

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

# The parts of a training step, in their order.
PHASES = (
    *("input", "backbone forward", "BEV forward", "line decoder forward", "point head forward"),
    *("criterion", "backward", "optimiser", "loss report"),
)


@dataclass
class Counts:
    """What one phase asks of the device."""

    launches: int = 0  # operators on device tensors that are not views
    calls: int = 0  # to the device's library (CANN), where the device counts by itself
    strided: int = 0  # operands of these calls that the library has to copy, because their strides have gaps
    host_waits: int = 0  # the host stopped until the device had a value or a size
    cpu_fallbacks: int = 0  # operators that an NPU hands back to the CPU
    float64: int = 0  # operators with a float64 result on the device
    to_device_copies: int = 0
    to_device_bytes: int = 0
    to_host_copies: int = 0
    to_host_bytes: int = 0
    collectives: int = 0


# What a report shows; also the keys of a budget.
NUMBERS = tuple(number.name for number in fields(Counts))


@dataclass
class Audit:
    """Counts of one training step by phase, and the lines that made the host wait."""

    phases: dict[str, Counts] = field(default_factory=lambda: {phase: Counts() for phase in PHASES})
    wait_lines: Counter[tuple[str, str]] = field(default_factory=Counter)  # (phase, line) -> waits
    fallback_names: Counter[str] = field(default_factory=Counter)
    operators: Counter[tuple[str, str]] = field(default_factory=Counter)  # (phase, operator) -> launches

    def total(self, name: str) -> int:
        """One of NUMBERS over all phases."""
        return sum(getattr(counts, name) for counts in self.phases.values())

    def to_dict(self) -> dict[str, Any]:
        """For JSON; ``total`` holds what a budget limits."""
        return {
            "total": {name: self.total(name) for name in NUMBERS},
            "phases": {phase: vars(counts) for phase, counts in self.phases.items()},
            "host_waits": [
                {"phase": phase, "line": line, "count": count} for (phase, line), count in self.wait_lines.most_common()
            ],
            "cpu_fallbacks": dict(self.fallback_names),
            "operators": {
                phase: {name: count for (where, name), count in self.operators.most_common() if where == phase}
                for phase in self.phases
            },
        }
