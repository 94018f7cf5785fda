"""Annotated samples -> padded targets."""

from __future__ import annotations

import numpy as np
import pytest
from support.random_targets import CONFIG, sample

from pivotnet.config import preset
from pivotnet.data.targets import build_targets

SWINT = preset("swint")


def test_shapes_and_padding() -> None:
    targets = build_targets([sample(0, (3, 0, 2)), sample(1, (1, 4, 0))], SWINT)
    assert targets.points.shape == (2, 3, 4, 30, 2)
    assert targets.masks.shape == (2, 3, 4, 400, 200)
    assert targets.semantic.shape == (2, 3, 400, 200)
    assert targets.counts.tolist() == [[3, 0, 2], [1, 4, 0]]
    for b, c in np.ndindex(2, 3):
        n = targets.counts[b, c]
        assert (targets.lengths[b, c, :n] >= 2).all()
        assert not targets.lengths[b, c, n:].any()
        assert not targets.points[b, c, n:].any()
        assert not targets.masks[b, c, n:].any()


@pytest.mark.parametrize("short", [0, 1])
def test_an_instance_of_less_than_two_points_is_left_out_with_its_mask(short: int) -> None:
    mask, points, lengths = sample(5, (3, 0, 0), lengths=(4, 5, 3))
    lengths[0][1] = short
    targets = build_targets([(mask, points, lengths)], SWINT)
    ids = np.unique(mask[0])[1:]
    assert targets.counts[0].tolist() == [2, 0, 0]
    assert targets.lengths[0, 0].tolist() == [4, 3]
    np.testing.assert_array_equal(targets.masks[0, 0, 1], mask[0] == ids[2])
    np.testing.assert_array_equal(targets.semantic[0, 0], mask[0] > 0)


def test_mask_stride_keeps_every_fourth_pixel() -> None:
    one = sample(6, (2, 2, 2))
    full, small = build_targets([one], SWINT), build_targets([one], CONFIG)
    assert small.masks.shape[-2:] == CONFIG.mask_size == (100, 50)
    np.testing.assert_array_equal(small.masks, full.masks[..., ::4, ::4])
    np.testing.assert_array_equal(small.semantic, full.semantic[..., ::4, ::4])


def test_saturated_ids_count_as_one() -> None:
    """Ids above 255 are stored as 255: fewer ids than instances, so the class is redrawn."""
    mask, points, lengths = sample(7, (3, 0, 0))
    ids = np.unique(mask[0])[1:]
    mask[0][np.isin(mask[0], ids[1:])] = 255
    targets = build_targets([(mask, points, lengths)], SWINT)
    assert targets.counts[0, 0] == 3
    assert targets.masks[0, 0].flatten(1).any(1).all()
