"""Upsampling of masks against torch's, and masks a few at a time against all at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.random_targets import CONFIG, FIELDS, gradients, predictions, targets

from pivotnet.criterion.criterion import Criterion
from pivotnet.criterion.upsampling import Upsampling
from pivotnet.device import all_rows_at_once

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("source", "size"),
    [((64, 32), (400, 200)), ((8, 6), (20, 10)), ((5, 7), (5, 9)), ((1, 3), (4, 1)), ((9, 9), (4, 3))],
)
def test_upsampling_and_its_adjoint_are_those_of_interpolate(source: tuple[int, int], size: tuple[int, int]) -> None:
    grids = torch.randn(3, *source, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = F.interpolate(grids[None], size=size, mode="bilinear", align_corners=True)[0]
    upsampling = Upsampling(source, size, CPU)
    out, spare = torch.empty(2, 3, *size)
    found = upsampling(grids.detach(), out, spare)
    assert found is out
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-5)
    pixels = torch.randn(3, *size, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(expected, grids, pixels)
    torch.testing.assert_close(upsampling.adjoint(pixels), gradient, rtol=1e-5, atol=1e-4)


def test_masks_of_the_targets_size_are_left_as_they_are() -> None:
    grids = torch.randn(2, 4, 3)
    upsampling = Upsampling((4, 3), (4, 3), CPU)
    assert torch.equal(upsampling(grids, *torch.empty(2, 2, 4, 3)), grids)
    assert torch.equal(upsampling.adjoint(grids), grids)


def test_a_few_masks_at_a_time_or_all_at_once_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = targets((6, 3, 4), (2, 0, 5))
    few, all_of_them = predictions(2), predictions(2)
    monkeypatch.setattr("pivotnet.device.CPU_CACHE_BYTES", 3 * 4 * CONFIG.mask_size[0] * CONFIG.mask_size[1] * 7)
    results = [Criterion(CONFIG)(few, batch)]
    with all_rows_at_once():
        results.append(Criterion(CONFIG)(all_of_them, batch))
    for result in results:
        result.total.backward()
    for name, term in results[0].terms.items():
        torch.testing.assert_close(term, results[1].terms[name], rtol=1e-6, atol=0)
    for name in FIELDS:
        torch.testing.assert_close(gradients(few)[name], gradients(all_of_them)[name], rtol=1e-5, atol=1e-10)
