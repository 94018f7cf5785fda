"""Which operators launch a kernel, make the host wait, or have no kernel on an NPU."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

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


def operator_name(operator: Any) -> str:
    """``add`` for ``aten::add.Tensor``."""
    return operator._schema.name.split("::")[-1]


def launches(operator: Any) -> bool:
    """Whether the operator computes something, rather than give another view of the same memory."""
    if operator_name(operator) in SILENT:
        return False
    returned = operator._schema.returns
    aliases = [result.alias_info for result in returned]
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
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
