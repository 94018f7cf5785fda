"""Operators that upstream's tree may call and this package's step does not, on a simulated NPU, forward and backward,
against the same on the CPU: that torch_npu's kernels and the simulator's reference bodies understand each other.

Those of the step are compared within the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

Make = Callable[[], Tensor]  # an input


def r(*shape: int) -> Make:
    return lambda: torch.rand(shape) * 2 - 1


def positive(*shape: int) -> Make:
    return lambda: torch.rand(shape) + 0.1


def index(high: int, *shape: int) -> Make:
    return lambda: torch.randint(0, high, shape)


def mask(*shape: int) -> Make:
    return lambda: torch.rand(shape) > 0.4


def scatter(a: Tensor, i: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    return a.scatter(1, i, b), a.scatter_add(1, i, b), a.scatter(1, i[:, :2], 2.0)


def ranges(device: torch.device) -> tuple[Tensor, ...]:
    grids = torch.meshgrid(torch.arange(3.0, device=device), torch.linspace(0, 1, 4, device=device), indexing="ij")
    return (*grids, torch.eye(3, device=device), torch.full((2,), 3, device=device), torch.zeros(2, device=device))


UNARY = "exp log sqrt rsqrt sin cos floor ceil round square reciprocal erf isfinite isnan"
BINARY = "maximum minimum pow eq ne lt le gt ge"
IMAGE = (2, 4, 7, 9)
# name, function, inputs
CASES: list[tuple[Any, ...]] = [
    *((name, getattr(torch, name), positive(3, 5)) for name in UNARY.split()),
    *((name, getattr(torch, name), positive(3, 5), positive(1, 5)) for name in BINARY.split()),
    ("softplus", F.softplus, r(3, 5)),
    ("numbers", lambda a: ((a + 2) * 3 - 1) / 4 + (1 - a) + 2 / a + a**2 + 2**a, positive(3, 5)),
    ("compare with numbers", lambda a: (a > 0.3) & (a <= 0.7) | (a == 0.5) ^ ~(a < 0.1), positive(3, 5)),
    ("integers", lambda a: a // 3 + a % 4 - a * 2, index(50, 4, 5)),
    ("in place", lambda a: (a * 1).add_(1).mul_(2).sub_(0.5).div_(3).clamp_(0.1, 0.9).sigmoid_(), r(3, 5)),
    ("addcmul", lambda a, b, c: torch.addcmul(a, b, c, value=0.3) + torch.addcdiv(a, b, c + 3), r(3), r(3), r(3)),
    ("lerp", lambda a, b: torch.lerp(a, b, 0.3) + torch.lerp(a, b, torch.full_like(a, 0.2)), r(4), r(4)),
    ("clamp", lambda a: a.clamp(-0.3, 0.4) + a.clamp(min=0) + a.clamp(max=0.1), r(3, 5)),
    ("masked_fill", lambda a, m: a.masked_fill(m, -1e9).masked_fill(~m, float("-inf")).exp(), r(3, 5), mask(3, 5)),
    ("logical", lambda a, b: (a & b, a | b, a ^ b, ~a, a.all(), a.any(), a.all(1)), mask(3, 4), mask(3, 4)),
    # reductions
    ("var and std", lambda a: (a.var(1), a.std(0, unbiased=False), torch.var_mean(a, (0, 2))[0]), r(2, 3, 4)),
    ("norm", lambda a: (a.norm(), a.norm(dim=1), torch.linalg.vector_norm(a, 1, dim=(0, 1))), r(3, 4)),
    ("max and min", lambda a: (a.max(), a.min(), a.max(1)[0], a.min(0)[1], a.amax((0, 1)), a.amin(1)), r(3, 4, 2)),
    ("argmax", lambda a: (a.argmax(), a.argmax(1), a.argmin(0, keepdim=True)), r(3, 4)),
    ("prod and cumsum", lambda a: (a.prod(), a.prod(1), a.cumsum(0)), r(3, 4)),
    # order and selection
    ("sort", lambda a: (*a.sort(1), a.argsort(0, descending=True), *a.topk(2, 1)), r(4, 5)),
    ("gather", lambda a, i: a.gather(1, i), r(4, 5), index(5, 4, 3)),
    ("scatter", scatter, r(4, 5), lambda: torch.rand(4, 5).argsort(1), r(4, 5)),
    ("index", lambda a, i: (a[i], a[:, i], a[i, 1:], a[..., 0], a[None, ::2], a[i, i]), r(6, 6, 2), index(6, 3)),
    ("index_put", lambda a, i, b: (a * 1).index_put_((i,), b, accumulate=True), r(6, 2), index(6, 3), r(3, 2)),
    ("nonzero", lambda a, m: (m.nonzero(), m[m], a[m]), r(4, 4), mask(4, 4)),
    # shapes
    ("expand and repeat", lambda a: (a[:, None].expand(3, 2, 4).contiguous(), a.repeat(2, 3)), r(3, 4)),
    ("roll and flip", lambda a: (a.roll((-1, 2), (1, 2)), a.flip(1), a.roll(1, 0)), r(2, 5, 6)),
    ("creation", lambda a: (torch.zeros_like(a), torch.ones_like(a), a.new_full((2, 3), 7.0), *ranges(a.device)), r(3)),
    # products
    ("cdist", lambda a, b: (torch.cdist(a, b), torch.cdist(a, b, p=1)), r(2, 4, 3), r(2, 5, 3)),
    # layers
    ("adaptive_avg_pool2d", lambda a: (F.adaptive_avg_pool2d(a, 1), F.adaptive_avg_pool2d(a, (3, 4))), r(*IMAGE)),
    ("bilinear aligned", lambda a: F.interpolate(a, (13, 20), mode="bilinear", align_corners=True), r(*IMAGE)),
    ("bilinear", lambda a: F.interpolate(a, (13, 20), mode="bilinear", align_corners=False), r(*IMAGE)),
    ("nearest", lambda a: F.interpolate(a, (14, 18), mode="nearest"), r(*IMAGE)),
    ("grid_sample", lambda a, g: F.grid_sample(a, g, align_corners=False), r(*IMAGE), r(2, 3, 4, 2)),
    # losses
    ("cross_entropy map", lambda a, i: F.cross_entropy(a, i), r(2, 3, 4, 5), index(3, 2, 4, 5)),
    ("bce", lambda a, t: F.binary_cross_entropy(a.sigmoid(), t), r(3, 5), lambda: torch.rand(3, 5).round()),
    ("l1_loss", lambda a, b: F.l1_loss(a, b) + F.l1_loss(a, b, reduction="sum"), r(3, 5), r(3, 5)),
]


def run(function: Callable[..., Any], inputs: list[Tensor], device: str) -> tuple[list[Tensor], list[Tensor]]:
    """Results and gradients, on the CPU. The targets of losses (binary values) get no gradient."""
    moved = [value.detach().to(device).requires_grad_(value.requires_grad) for value in inputs]
    found = function(*moved)
    results = [found] if isinstance(found, Tensor) else list(found)
    assert all(result.device.type == device for result in results)
    differentiable = [result for result in results if result.requires_grad]
    if differentiable:
        generator = torch.Generator().manual_seed(1)
        outer = [torch.rand(result.shape, generator=generator).to(device) for result in differentiable]
        torch.autograd.backward(differentiable, outer)
    gradients = [value.grad.cpu() for value in moved if value.grad is not None]
    return [result.detach().cpu() for result in results], gradients


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_operator_equals_the_cpu_and_needs_no_fallback(case: tuple[Any, ...]):
    _, function, *makers = case
    torch.manual_seed(0)
    inputs = [make() for make in makers]
    for value in inputs:
        binary = bool(((value == 0) | (value == 1)).all())
        value.requires_grad_(value.is_floating_point() and not binary)
    actual, expected = (run(function, inputs, device) for device in ("npu", "cpu"))  # strict: a fallback is an error
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
