"""Synchronised batch norm of two processes against BatchNorm2d on the joined batch."""

import copy

import pytest
import torch
from support.ranks import NORM_CASES, batch_norm, norm_data, norm_share, observe_norm, run_ranks
from torch import nn

from pivotnet.model.ops.sync_batch_norm import SyncBatchNorm, convert_sync_batch_norm


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """What each rank saw in each case."""
    return run_ranks(norm_share, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", range(len(NORM_CASES)))
def test_two_processes_equal_the_joined_batch(recorded, case):
    """Recomputed in the backward pass, running statistics move twice, as those of BatchNorm2d."""
    offset, recompute = NORM_CASES[case]
    ranks = [rank[case] for rank in recorded]
    images, weights = norm_data(offset)
    joined = observe_norm(batch_norm().double(), images.double(), weights.double(), recompute)
    for key, wanted in joined.items():
        if key.startswith(("output", "image")):
            ours = torch.cat([rank[key] for rank in ranks])
        elif "gradient" in key:  # each rank has its share, which data parallel training adds up
            ours = sum(rank[key] for rank in ranks)
        else:  # statistics: the same on both ranks
            ours = ranks[0][key]
            torch.testing.assert_close(ours, ranks[1][key], rtol=0, atol=0)
        # Inputs of unit deviation around the offset are themselves known to 6e-8 of the offset only.
        tolerance = 1e-5 * float(wanted.abs().max()) + 1e-6 * offset
        torch.testing.assert_close(ours.to(wanted.dtype), wanted, rtol=0, atol=tolerance, msg=key)


def test_one_process_is_batch_norm_with_the_tensors_options_and_mode_of_before():
    plain = batch_norm()
    converted = convert_sync_batch_norm(copy.deepcopy(plain))
    assert isinstance(converted[0], SyncBatchNorm)
    first, second = (observe_norm(layers, *norm_data(0.0)) for layers in (plain, converted))
    for key, tensor in first.items():
        torch.testing.assert_close(second[key], tensor, rtol=0, atol=0)
    frozen = nn.BatchNorm2d(4, eps=1e-3, momentum=0.01).eval()
    weight = frozen.weight.requires_grad_(False)
    inner = convert_sync_batch_norm(nn.Sequential(nn.Sequential(frozen), nn.LayerNorm(3)))[0][0]
    assert inner.weight is weight and not weight.requires_grad
    assert (inner.eps, inner.momentum, inner.training) == (1e-3, 0.01, False)
