"""Deformable attention against a reference that follows the definition cell by cell, and grid_sample; its Triton
kernels computed by Triton's interpreter, compiled, and on a GPU, if there is one."""

import itertools
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.commands import ENVIRONMENT, ROOT

from pivotnet.device import set_reduced_precision
from pivotnet.model.ops import deformable_attention
from pivotnet.model.ops.deformable_attention import multi_scale_deformable_attention, sample_levels

FIELDS = ("output", "value", "locations", "weights")  # the last three: gradients


def case(shapes, batch=1, queries=3, heads=1, channels=4, points=1, dtype=torch.float32, places=None):
    """(value, shapes, locations, weights, gradient); ``places`` [queries, 2] are for all heads, levels and points."""
    generator = torch.Generator().manual_seed(0)
    samples = (batch, queries if places is None else len(places), heads, len(shapes), points)
    locations = torch.rand(*samples, 2, generator=generator) * 1.6 - 0.3  # also well outside of the map
    if places is not None:
        locations[:] = places[None, :, None, None, None]
    value = torch.randn(batch, sum(h * w for h, w in shapes), heads, channels, generator=generator).to(dtype)
    weights = torch.rand(*samples, generator=generator)
    return value, shapes, locations, weights, torch.randn(*samples[:2], heads * channels, generator=generator)


# edges of the map, centres of cells and the lines between them, exact in float32 for sizes of powers of two
EDGES = torch.tensor([-0.25, -0.125, -0.0625, 0.0, 0.0625, 0.125, 0.5, 0.9375, 1.0, 1.0625, 1.125, 3.0])
BROKEN = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 3e9])
BROKEN_X = torch.cartesian_prod(BROKEN, torch.tensor([0.25, 0.5]))
SMALL = case(((3, 5), (2, 2)), batch=2, queries=4, heads=2, channels=3, points=2)
CASES = {
    "images of the presets": case(((32, 336), (16, 168)), heads=4, channels=32, points=8),
    "grid of the presets in bfloat16": case(((64, 32),), heads=2, channels=32, points=4, dtype=torch.bfloat16),
    "odd sizes, three levels": case(((3, 5), (2, 2), (1, 1)), batch=2, queries=21, heads=2, channels=3),
    "medium": case(((40, 60), (20, 30)), queries=300, heads=4, channels=8, points=4),
    "edges": case(((4, 8),), places=torch.cartesian_prod(EDGES, EDGES)),
    "broken": case(((4, 8), (3, 5)), places=torch.cat([BROKEN_X, BROKEN_X.flip(1)])),
}


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory) -> dict[str, dict[str, torch.Tensor]]:
    pytest.importorskip("triton", minversion="3.3")
    folder = tmp_path_factory.mktemp("triton")
    inputs = [(value, [x for shape in shapes for x in shape], *rest) for value, shapes, *rest in CASES.values()]
    torch.save(inputs, folder / "inputs.pt")
    script = Path(ROOT, "test", "support", "interpreted_triton.py")
    command = [sys.executable, script, folder / "inputs.pt", folder / "outputs.pt"]
    done = subprocess.run(command, env={**ENVIRONMENT, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outputs = torch.load(folder / "outputs.pt", weights_only=True)
    return {name: dict(zip(FIELDS, found)) for name, found in zip(CASES, outputs)}


def by_grid_sample(value, shapes, locations, weights, gradient):
    leaves = [tensor.float().requires_grad_() for tensor in (value, locations.clone(), weights.clone())]
    output = sample_levels(leaves[0], shapes, *leaves[1:])
    return dict(zip(FIELDS, (output.detach(), *torch.autograd.grad(output, leaves, gradient))))


def reference(value, shapes, locations, weights):
    output = torch.zeros(*weights.shape[:3], value.shape[-1])
    starts = [0, *itertools.accumulate(h * w for h, w in shapes)]
    for b, q, m, level, p in itertools.product(*map(range, weights.shape)):
        height, width = shapes[level]
        x, y = (locations[b, q, m, level, p] * torch.tensor([width, height]) - 0.5).tolist()
        for row, column in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
            if 0 <= row < height and 0 <= column < width:
                weight = weights[b, q, m, level, p] * (1 - abs(x - column)) * (1 - abs(y - row))
                output[b, q, m] += weight * value[b, starts[level] + row * width + column, m]
    return output.flatten(2)


# what runs on this machine, and what runs on devices without a kernel of their own
@pytest.mark.parametrize("attention", [multi_scale_deformable_attention, sample_levels])
def test_equals_the_definition(attention):
    torch.testing.assert_close(attention(*SMALL[:-1]), reference(*SMALL[:-1]), rtol=1e-5, atol=1e-5)


def test_nan_locations_do_not_stop_the_program():
    """A diverged network is reported by its loss; the operator must not fail on an index before that."""
    output = multi_scale_deformable_attention(*CASES["broken"][:-1])
    assert output.shape == CASES["broken"][-1].shape


def test_gradients_are_those_that_autograd_gives_grid_sample():
    value, shapes, locations, weights, outer = CASES["medium"]
    leaves = [tensor.clone().requires_grad_() for tensor in (value, locations, weights)]
    output = multi_scale_deformable_attention(leaves[0], shapes, *leaves[1:])
    found = (output, *torch.autograd.grad(output, leaves, outer))
    for ours, plain in zip(found, by_grid_sample(*CASES["medium"]).values()):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))


@pytest.mark.parametrize("name", [name for name in CASES if name != "broken"])
def test_equals_grid_sample(name, interpreted):
    dtype = CASES[name][0].dtype
    for field, expected in by_grid_sample(*CASES[name]).items():
        found, of_value = interpreted[name][field], field == "value"
        assert found.dtype == (dtype if of_value else torch.float32)
        near = 1e-2 if of_value and dtype != torch.float32 else 1e-5
        torch.testing.assert_close(found.float(), expected, rtol=near, atol=1e-5 * float(expected.abs().max()))


def test_places_that_are_no_numbers_sample_nothing(interpreted):
    """A diverged network is reported by its loss; the kernel must not touch memory of others before that."""
    found = interpreted["broken"]
    assert not found["output"].any() and not found["value"].any()


@pytest.mark.parametrize("name", ["images of the presets", "grid of the presets in bfloat16"])
@pytest.mark.parametrize("kernel", ["_forward_kernel", "_backward_kernel"])
def test_compiles_for_cards(name, kernel, tmp_path, monkeypatch):
    """To machine code, without a card."""
    triton = pytest.importorskip("triton", minversion="3.3")
    from triton.backends.compiler import GPUTarget

    from pivotnet.model.ops import deformable_attention_triton as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    value, shapes, _, weights, _ = CASES[name]
    function = getattr(kernels, kernel)
    fixed = {"LEVELS": len(shapes), "POINTS": weights.shape[-1], "Q": kernels.PROGRAM_QUERIES, "C": value.shape[-1]}
    types = {"value": "*bf16" if value.dtype == torch.bfloat16 else "*fp32", "sizes": "*i32"}
    types |= dict.fromkeys(("cells", "queries", "heads", "channels"), "i32") | dict.fromkeys(fixed, "constexpr")
    signature = {argument: types.get(argument, "*fp32") for argument in function.arg_names}
    source = triton.compiler.ASTSource(function, signature, fixed)
    assert triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["cubin"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_triton_grid_sample_stays_with_a_warning():
    with pytest.warns(UserWarning, match="deformable attention uses grid_sample"):
        assert not deformable_attention._triton_works.__wrapped__()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("dtype, near", [(torch.float32, 2e-5), (torch.bfloat16, 1e-2)])
def test_equals_grid_sample_on_cuda_and_keeps_its_inputs_only(dtype, near):
    """At the size of the presets: 6 cameras beside each other, 64 x 32 queries."""
    assert deformable_attention._triton_works()
    set_reduced_precision(False)
    value, shapes, *rest = case(((32, 336), (16, 168)), 2, queries=2048, heads=8, channels=32, points=8, dtype=dtype)
    value, locations, weights, outer = (tensor.cuda() for tensor in (value, *rest))
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    before = torch.cuda.memory_allocated()
    output = multi_scale_deformable_attention(value, shapes, locations, weights)
    assert torch.cuda.memory_allocated() - before <= output.nbytes + 2**16
    expected = sample_levels(value.float(), shapes, locations, weights)
    found, judged = ((result, *torch.autograd.grad(result, leaves, outer)) for result in (output, expected))
    # a few of a million places lie on edges of cells, where one ulp changes one gradient much
    for ours, plain, limit in zip(found, judged, (2e-5, near, 1e-2, 2e-5)):
        assert float((ours.double() - plain.double()).norm() / plain.double().norm()) < limit
