"""Upstream's keyword arguments become the presets, and what the port cannot do is refused."""

from __future__ import annotations

import pytest
from support import upstream_configs as configs

from pivotnet.config import CriterionConfig, MapConfig, ModelConfig
from pivotnet.errors import PivotNetError
from pivotnet.upstream import settings


def bev(**changes):
    return settings.bev_config(configs.bev(**changes))


def line(**changes):
    return settings.line_config(configs.line(**changes))


def criterion(**changes):
    given = configs.post_processor(**changes)
    return settings.criterion_config(**{name: given[name] for name in given if name not in ("map_conf", "pivot_conf")})


def test_upstreams_numbers_are_the_presets() -> None:
    assert bev() == ModelConfig()
    assert line() == (ModelConfig(), MapConfig())
    assert settings.map_config(configs.MAP, (10, 2, 30)) == MapConfig()
    assert criterion() == CriterionConfig()


def test_other_numbers_are_taken_over() -> None:
    model = bev(d_model=64, num_decoder_layers=2, dropout=0.0, tgt_shape=(32, 16))
    assert model == ModelConfig(hidden=64, bev_decoder_layers=2, dropout=0.0, bev_size=(32, 16))
    _, lines = line(query_split=(5, 6, 7))
    assert lines.num_queries == (5, 6, 7)
    assert criterion(no_object_coe=0.25).no_object_weight == 0.25


MASK_LOSS = {"decoder_weights": [1, 1, 1, 1], "mask_loss_conf": {"ce_weight": 2, "dice_weight": 1}}


@pytest.mark.parametrize(
    ("convert", "changes", "message"),
    [
        (bev, {"src_pos_encode": "sine"}, "bev_decoder has src_pos_encode="),
        (bev, {"dec_n_points": 4}, "bev_decoder has dec_n_points="),
        (bev, {"activation": "gelu"}, "bev_decoder has activation="),
        (bev, {"src_shape": [(32, 336), (8, 84)]}, "bev_decoder has src_shape="),
        (bev, {"use_projection": False}, "bev_decoder has use_projection="),
        (line, {"pre_norm": True}, "ins_decoder has pre_norm="),
        (line, {"mask_dim": 128}, "ins_decoder has mask_dim="),
        (line, {"num_classes": 3}, "ins_decoder has num_classes="),
        (criterion, {"coe_endpts": 4}, "matcher_conf has coe_endpts="),
        (criterion, {"sem_loss_conf": MASK_LOSS}, "mask_loss_conf has ce_weight=2"),
    ],
)
def test_what_the_port_does_not_support_is_refused(convert, changes: dict, message: str) -> None:
    with pytest.raises(PivotNetError, match=f"{message}.*correct the config"):
        convert(**changes)
