"""Names, order and shapes of every parameter and buffer, against upstream's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pivotnet.config import preset
from pivotnet.model.pivotnet import PivotNet

RECORDED = json.loads((Path(__file__).parent / "network" / "state_dict.json").read_text())


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_state_dict_is_upstreams(name):
    config = preset(name)
    state = PivotNet(config.model, config.map).state_dict()
    # The order counts too: optimiser states refer to parameters by their number.
    assert [(key, list(tensor.shape)) for key, tensor in state.items()] == list(
        (key, shape) for key, shape in RECORDED[name].items()
    )


def test_constant_buffers():
    config = preset("smoke")
    state = PivotNet(config.model, config.map).state_dict()
    assert state["bev_decoder.bev_encoder.image_order"].tolist() == [2, 1, 0, 5, 4, 3]
    assert state["post_processor.criterion.empty_weight"].tolist() == [1.0, 0.5]
    torch.testing.assert_close(state["post_processor.criterion.collinear_pt_weight"], torch.tensor([0.2, 1.0]))
