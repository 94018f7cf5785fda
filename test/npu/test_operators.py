"""Operators on a simulated NPU, forward and backward, against the same on the CPU: that torch_npu's kernels and the
simulator's reference bodies understand each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor


def rand(*shape: int) -> Tensor:
    return torch.rand(shape) * 2 - 1


def index(high: int, *shape: int) -> Tensor:
    return torch.randint(0, high, shape)


def mask(*shape: int) -> Tensor:
    return torch.rand(shape) > 0.4


IMAGE = (2, 4, 7, 9)
CASES: dict[str, tuple[Callable[..., Any], list[Callable[[], Tensor]]]] = {}


def case(name: str, function: Callable[..., Any], *inputs: Callable[[], Tensor]) -> None:
    CASES[name] = (function, list(inputs))


def r(*shape: int) -> Callable[[], Tensor]:
    return lambda: rand(*shape)


def positive(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.rand(shape) + 0.1


# arithmetic
for unary in (
    "abs",
    "neg",
    "exp",
    "log",
    "log1p",
    "sqrt",
    "rsqrt",
    "sin",
    "cos",
    "sigmoid",
    "floor",
    "ceil",
):
    case(unary, getattr(torch, unary), positive(3, 5))
for unary in ("round", "sign", "reciprocal", "erf", "square", "trunc", "isfinite", "isnan", "isinf"):
    case(unary, getattr(torch, unary), positive(3, 5))
for binary in ("add", "sub", "mul", "div", "maximum", "minimum", "pow", "eq", "ne", "lt", "le", "gt", "ge"):
    case(binary, getattr(torch, binary), positive(3, 5), positive(1, 5))
case("numbers", lambda a: ((a + 2) * 3 - 1) / 4 + (1 - a) + 2 / a + a**2 + 2**a, positive(3, 5))
case("compare with numbers", lambda a: (a > 0.3) & (a <= 0.7) | (a == 0.5) ^ ~(a < 0.1), positive(3, 5))
case("integers", lambda a: a // 3 + a % 4 - a * 2, lambda: index(50, 4, 5))
case("in place", lambda a: (a * 1).add_(1).mul_(2).sub_(0.5).div_(3).clamp_(0.1, 0.9).sigmoid_(), r(3, 5))
case("addcmul", lambda a, b, c: torch.addcmul(a, b, c, value=0.3) + torch.addcdiv(a, b, c + 3), r(3), r(3), r(3))
case("lerp", lambda a, b: torch.lerp(a, b, 0.3) + torch.lerp(a, b, torch.full_like(a, 0.2)), r(4), r(4))
case("clamp", lambda a: a.clamp(-0.3, 0.4) + a.clamp(min=0) + a.clamp(max=0.1), r(3, 5))
case("where", lambda a, b, m: torch.where(m, a, b) + torch.where(m, a, 2.0), r(3, 5), r(3, 5), lambda: mask(3, 5))
case(
    "masked_fill", lambda a, m: a.masked_fill(m, -1e9).masked_fill(~m, float("-inf")).exp(), r(3, 5), lambda: mask(3, 5)
)
case("nan_to_num", lambda a: torch.nan_to_num(a / 0.0, 1.0, 2.0, 3.0), lambda: torch.tensor([0.0, 1.0, -1.0]))
case(
    "logical",
    lambda a, b: (a & b, a | b, a ^ b, ~a, a.all(), a.any(), a.all(1)),
    lambda: mask(3, 4),
    lambda: mask(3, 4),
)
case(
    "cast",
    lambda a: (a.half().float(), a.int(), a.long(), a.bool(), a.to(torch.uint8), a.bfloat16().float()),
    positive(9),
)
# activations
for activation in ("relu", "gelu", "silu", "softplus", "logsigmoid"):
    case(activation, getattr(F, activation), r(3, 5))
# reductions
case("sum", lambda a: (a.sum(), a.sum(1), a.sum((0, 2), keepdim=True)), r(2, 3, 4))
case("sum of booleans", lambda m: m.sum(1), lambda: mask(3, 5))
case("mean", lambda a: (a.mean(), a.mean(-1), a.mean((-2, -1), keepdim=True)), r(2, 3, 4))
case("var and std", lambda a: (a.var(1), a.std(0, unbiased=False), torch.var_mean(a, (0, 2))[0]), r(2, 3, 4))
case("norm", lambda a: (a.norm(), a.norm(dim=1), torch.linalg.vector_norm(a, 1, dim=(0, 1))), r(3, 4))
case("max and min", lambda a: (a.max(), a.min(), a.max(1)[0], a.min(0)[1], a.amax((0, 1)), a.amin(1)), r(3, 4, 2))
case("argmax", lambda a: (a.argmax(), a.argmax(1), a.argmin(0, keepdim=True)), r(3, 4))
case("prod and cumsum", lambda a: (a.prod(), a.prod(1), a.cumsum(0)), r(3, 4))
case("cummin", lambda a: (a.cummin(1)[0], a.cummax(0)[0]), r(3, 4))
case("logsumexp", lambda a: a.logsumexp((0, 1)), r(3, 4))
# order and selection
case("sort", lambda a: (*a.sort(1), a.argsort(0, descending=True), *a.topk(2, 1)), r(4, 5))
case("gather", lambda a, i: a.gather(1, i), r(4, 5), lambda: index(5, 4, 3))
case(
    "scatter",
    lambda a, i, b: (a.scatter(1, i, b), a.scatter_add(1, i, b)),
    r(4, 5),
    lambda: torch.rand(4, 5).argsort(1),
    r(4, 5),
)
case("scatter number", lambda a, i: a.scatter(1, i, 2.0), r(4, 5), lambda: index(5, 4, 2))
case("index", lambda a, i: (a[i], a[:, i], a[i, 1:], a[..., 0], a[None, ::2]), r(6, 6, 2), lambda: index(6, 3))
case("two indices", lambda a, i, j: a[i, j], r(6, 6, 2), lambda: index(6, 3), lambda: index(6, 3))
case("index_put", lambda a, i, b: (a * 1).index_put_((i,), b, accumulate=True), r(6, 2), lambda: index(6, 3), r(3, 2))
case("assignment", lambda a, b: assign(a, b), r(6, 2), r(2, 2))
case("index_select", lambda a, i: a.index_select(1, i), r(3, 6), lambda: index(6, 4))
case("nonzero", lambda m: (m.nonzero(), m[m]), lambda: mask(4, 4))
case("boolean index", lambda a, m: a[m], r(4, 4), lambda: mask(4, 4))
case("unique", lambda i: torch.unique(i), lambda: index(5, 12))
case("one_hot", lambda i: F.one_hot(i, 6), lambda: index(6, 4, 2))
case("embedding", lambda w, i: F.embedding(i, w), r(7, 4), lambda: index(7, 3, 2))
# shapes
case("cat and stack", lambda a, b: (torch.cat((a, b), 1), torch.stack((a, b), 1)), r(3, 4), r(3, 4))
case("split and chunk", lambda a: (*a.split((1, 3), 1), *a.chunk(2, 0), *a.unbind(1)), r(2, 4))
case("permute", lambda a: (a.permute(2, 0, 1).contiguous(), a.transpose(0, 1).reshape(-1), a.flatten(1)), r(2, 3, 4))
case(
    "expand and repeat",
    lambda a: (a[:, None].expand(3, 2, 4).contiguous(), a.repeat(2, 3), a.repeat_interleave(2, 0)),
    r(3, 4),
)
case("roll and flip", lambda a: (a.roll((-1, 2), (1, 2)), a.flip(1), a.roll(1, 0)), r(2, 5, 6))
case("pad", lambda a: (F.pad(a, (1, 2, 0, 3)), F.pad(a, (-1, 0, 2, 0), value=0.5)), r(2, 5, 6))
case("triangles", lambda a: (a.tril(), a.triu(1)), r(4, 4))
case(
    "creation",
    lambda a: (*[f(a) for f in (torch.zeros_like, torch.ones_like)], a.new_full((2, 3), 7.0), a.new_zeros(4)),
    r(3),
)
case("ranges", lambda a: ranges(a.device), r(1))
# products
case("linear", lambda a, w, b: F.linear(a, w, b), r(2, 3, 4), r(5, 4), r(5))
case("linear without bias", lambda a, w: F.linear(a, w), r(2, 3, 4), r(5, 4))
case("matmul", lambda a, b: a @ b, r(2, 3, 4), r(2, 4, 5))
case("broadcast matmul", lambda a, b: a @ b, r(2, 3, 3, 4), r(4, 5))
case("bmm", torch.bmm, r(2, 3, 4), r(2, 4, 5))
case("mm and mv", lambda a, b, c: (a @ b, a @ c), r(3, 4), r(4, 5), r(4))
case("einsum", lambda a, b: torch.einsum("bqc,bchw->bqhw", a, b), r(2, 3, 4), r(2, 4, 5, 6))
case("addmm", lambda a, b, c: torch.addmm(a, b, c, beta=0.5, alpha=2), r(3, 5), r(3, 4), r(4, 5))
case("baddbmm", lambda a, b, c: torch.baddbmm(a, b, c), r(2, 3, 5), r(2, 3, 4), r(2, 4, 5))
case("inverse", torch.inverse, lambda: torch.eye(4) * 2 + rand(4, 4) * 0.1)
case("cdist", lambda a, b: (torch.cdist(a, b), torch.cdist(a, b, p=1)), r(2, 4, 3), r(2, 5, 3))
# layers
case("conv2d", lambda a, w, b: F.conv2d(a, w, b, stride=2, padding=1), r(*IMAGE), r(6, 4, 3, 3), r(6))
case("depthwise conv2d", lambda a, w: F.conv2d(a, w, padding=1, groups=4), r(*IMAGE), r(4, 1, 3, 3))
case("grouped conv2d", lambda a, w: F.conv2d(a, w, dilation=2, groups=2), r(*IMAGE), r(6, 2, 3, 3))
case("conv_transpose2d", lambda a, w: F.conv_transpose2d(a, w, stride=2), r(*IMAGE), r(4, 3, 3, 3))
case("conv1d", lambda a, w, b: F.conv1d(a, w, b, padding=1), r(2, 4, 9), r(3, 4, 3), r(3))
case("batch_norm", lambda a, w, b: F.batch_norm(a, None, None, w, b, True), r(*IMAGE), r(4), r(4))
case("batch_norm eval", lambda a, w, b: F.batch_norm(a, w.detach(), b.detach() + 2, w, b), r(*IMAGE), r(4), r(4))
case("layer_norm", lambda a, w, b: F.layer_norm(a, (6,), w, b), r(2, 5, 6), r(6), r(6))
case("group_norm", lambda a, w, b: F.group_norm(a, 2, w, b), r(*IMAGE), r(4), r(4))
case("max_pool2d", lambda a: F.max_pool2d(a, 3, 2, 1), r(*IMAGE))
case("avg_pool2d", lambda a: (F.avg_pool2d(a, 2), F.avg_pool2d(a, 3, 2, 1, count_include_pad=False)), r(*IMAGE))
case("adaptive_avg_pool2d", lambda a: (F.adaptive_avg_pool2d(a, 1), F.adaptive_avg_pool2d(a, (3, 4))), r(*IMAGE))
case("bilinear aligned", lambda a: F.interpolate(a, (13, 20), mode="bilinear", align_corners=True), r(*IMAGE))
case("bilinear", lambda a: F.interpolate(a, (13, 20), mode="bilinear", align_corners=False), r(*IMAGE))
case("nearest", lambda a: F.interpolate(a, (14, 18), mode="nearest"), r(*IMAGE))
case("grid_sample", lambda a, g: F.grid_sample(a, g, align_corners=False), r(*IMAGE), r(2, 3, 4, 2))
case(
    "grid_sample aligned",
    lambda a, g: F.grid_sample(a, g, padding_mode="border", align_corners=True),
    r(*IMAGE),
    r(2, 3, 4, 2),
)
case("softmax", lambda a: (a.softmax(-1), a.log_softmax(0), a.softmax(1)), r(2, 3, 4))
case("attention", F.scaled_dot_product_attention, r(2, 2, 5, 8), r(2, 2, 6, 8), r(2, 2, 6, 8))
case(
    "masked attention",
    lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m),
    r(2, 2, 5, 8),
    r(2, 2, 6, 8),
    r(2, 2, 6, 8),
    lambda: mask(2, 1, 5, 6) | (torch.arange(6) == 0),
)
case("causal attention", lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True), r(2, 2, 5, 8))
# losses
case("cross_entropy", lambda a, i: F.cross_entropy(a, i, a.new_tensor((0.2, 1, 3))), r(5, 3), lambda: index(3, 5))
case("cross_entropy each", lambda a, i: F.cross_entropy(a, i, reduction="none"), r(5, 3), lambda: index(3, 5))
case("cross_entropy map", lambda a, i: F.cross_entropy(a, i), r(2, 3, 4, 5), lambda: index(3, 2, 4, 5))
case(
    "bce_with_logits", lambda a, t: F.binary_cross_entropy_with_logits(a, t), r(3, 5), lambda: torch.rand(3, 5).round()
)
case(
    "bce each",
    lambda a, t: F.binary_cross_entropy_with_logits(a, t, reduction="none"),
    r(3, 5),
    lambda: torch.rand(3, 5).round(),
)
case("bce", lambda a, t: F.binary_cross_entropy(a.sigmoid(), t), r(3, 5), lambda: torch.rand(3, 5).round())
case("l1_loss", lambda a, b: F.l1_loss(a, b) + F.l1_loss(a, b, reduction="sum"), r(3, 5), r(3, 5))
case("mse_loss", F.mse_loss, r(3, 5), r(3, 5))
case("smooth_l1_loss", F.smooth_l1_loss, r(3, 5), r(3, 5))


def assign(a: Tensor, b: Tensor) -> Tensor:
    out = a * 1
    out[2:4] = b
    out[5] = 1.5
    return out


def ranges(device: torch.device) -> tuple[Tensor, ...]:
    grids = torch.meshgrid(torch.arange(3.0, device=device), torch.linspace(0, 1, 4, device=device), indexing="ij")
    return (*grids, torch.eye(3, device=device), torch.full((2,), 3, device=device), torch.zeros(2, device=device))


def tensors(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def run(function: Callable[..., Any], inputs: list[Tensor], device: str) -> tuple[list[Tensor], list[Tensor]]:
    """Results and gradients, on the CPU. The targets of losses (binary values) get no gradient."""
    moved = [value.detach().to(device) for value in inputs]
    for value, original in zip(moved, inputs):
        value.requires_grad_(original.requires_grad)
    results = tensors(function(*moved))
    assert all(result.device.type == device for result in results)
    differentiable = [result for result in results if result.requires_grad]
    if differentiable:
        generator = torch.Generator().manual_seed(1)
        outer = [torch.rand(result.shape, generator=generator).to(device) for result in differentiable]
        torch.autograd.backward(differentiable, outer)
    gradients = [value.grad.cpu() for value in moved if value.grad is not None]
    return [result.detach().cpu() for result in results], gradients


@pytest.mark.parametrize("name", CASES)
def test_operator_equals_the_cpu_and_needs_no_fallback(name: str):
    function, makers = CASES[name]
    torch.manual_seed(0)
    inputs = [make() for make in makers]
    for value in inputs:
        binary = bool(((value == 0) | (value == 1)).all())
        value.requires_grad_(value.is_floating_point() and not binary)
    expected, expected_gradients = run(function, inputs, "cpu")
    actual, actual_gradients = run(function, inputs, "npu")  # strict: a fallback is an error
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
    torch.testing.assert_close(actual_gradients, expected_gradients, rtol=1e-5, atol=1e-5, equal_nan=True)
