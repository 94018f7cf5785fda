"""Which queries become polylines, and which of their points count; test/golden has upstream's polylines and masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pivotnet.config import MapConfig
from pivotnet.evaluation.postprocess import draw_mask, postprocess
from pivotnet.structures import Predictions

MAP = MapConfig()


def blank(map_config: MapConfig = MAP) -> Predictions:
    """Two decoders that predict nothing in one sample."""
    queries, points = map_config.total_queries, map_config.total_points
    logits = torch.tensor([0.0, 4.0]).repeat(2, 1, queries, 1)
    validity = torch.tensor([4.0, 0.0]).repeat(2, 1, points, 1)
    return Predictions(logits, torch.rand(2, 1, points, 2), validity)


def test_a_tie_is_an_object() -> None:
    predictions = blank()
    predictions.object_logits[-1, 0, 0] = 0.25

    assert postprocess(predictions, MAP)[0].scores.tolist() == [0.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_equals_its_samples(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    whole = [draw(1, 3, size, 2).to(dtype) for draw, size in ((torch.randn, 60), (torch.rand, 700), (torch.randn, 700))]

    batched = postprocess(Predictions(*whole), MAP)

    for index, together in enumerate(batched):
        (alone,) = postprocess(Predictions(*(part[:, index : index + 1] for part in whole)), MAP)
        assert len(together) == len(alone) > 0
        np.testing.assert_array_equal(np.concatenate(together.points), np.concatenate(alone.points))
        np.testing.assert_array_equal(together.scores, alone.scores)
        np.testing.assert_array_equal(together.labels, alone.labels)


def test_more_than_255_instances_keep_their_ids() -> None:
    config = MapConfig(num_queries=(200, 150, 50))
    torch.manual_seed(1)
    predictions = blank(config)
    predictions.object_logits[..., 0] = 8

    instances = postprocess(predictions, config)[0]
    mask = draw_mask(instances, config)

    assert len(instances) == mask.max() == 400
    assert mask[2][mask[2] > 0].min() > 350
