"""The numbers of an audit, and which operators launch a kernel, make the host wait, or have no kernel on an NPU."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

# The parts of a training step, in their order.
PHASES = (
    *("input", "backbone forward", "BEV forward", "line decoder forward", "point head forward"),
    *("criterion", "backward", "optimiser", "loss report"),
)
# Operators that only make or describe memory.
SILENT = {
    "alias", "detach", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "is_pinned",
    "lift_fresh", "resize_", "set_", "_reshape_alias", "_unsafe_view",
}  # fmt: skip

# The shape of the result depends on the values: the host has to read a size before it can go on.
DATA_DEPENDENT = {
    "_unique", "_unique2", "argwhere", "bincount", "masked_select", "nonzero", "unique_consecutive", "unique_dim",
}  # fmt: skip
# The result is a value on the host.
READS_VALUE = {"_local_scalar_dense", "equal", "is_nonzero", "_linalg_check_errors"}

# Without a kernel in torch_npu 2.8 and 2.13, as their warnings say; a simulated NPU counts the fallbacks itself.
KNOWN_FALLBACKS = {
    "_linalg_det", "_linalg_eigh", "_linalg_solve_ex", "_logcumsumexp", "digamma", "huber_loss",
    "huber_loss_backward", "hypot", "index_reduce", "index_reduce_", "lgamma", "linalg_inv_ex", "mode",
    "multi_margin_loss", "multi_margin_loss_backward", "multilabel_margin_loss_backward",
}  # fmt: skip


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
    operand_bytes: int = 0  # inputs and results of the launches

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
            "operand_bytes": self.operand_bytes,
            "operators": {
                phase: {name: count for (where, name), count in self.operators.most_common() if where == phase}
                for phase in self.phases
            },
        }


def operator_name(operator: Any) -> str:
    """``add`` for ``aten::add.Tensor``."""
    return operator._schema.name.split("::")[-1]


def launches(operator: Any) -> bool:
    """Whether the operator computes something, rather than give another view of the same memory."""
    if operator_name(operator) in SILENT:
        return False
    aliases = [result.alias_info for result in operator._schema.returns]
    return not (aliases and all(alias is not None and not alias.is_write for alias in aliases))


def waits(operator: Any, arguments: Sequence[Any]) -> bool:
    """Whether the host has to read a value or a size before the operator's result exists."""
    name = operator_name(operator)
    if name in DATA_DEPENDENT or name in READS_VALUE:
        return True
    if name == "repeat_interleave":
        return isinstance(arguments[0], Tensor) and len(arguments) < 3
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        indices = arguments[1] if len(arguments) > 1 else ()
        return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)
    return False


def tensors_in(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(values)[0] if isinstance(leaf, Tensor)]
