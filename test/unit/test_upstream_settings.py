"""Upstream's keyword arguments become the presets, and what the port cannot do is refused."""

from __future__ import annotations

import dataclasses

import pytest
import upstream_configs as configs

from pivotnet.config import CriterionConfig, MapConfig, ModelConfig
from pivotnet.errors import PivotNetError
from pivotnet.upstream import settings


def criterion(**changes):
    given = configs.post_processor(**changes)
    names = ("criterion_conf", "matcher_conf", "sem_loss_conf", "no_object_coe", "collinear_pts_coe", "coe_endpts")
    return settings.criterion_config(*(given[name] for name in names))


def test_upstreams_numbers_are_the_presets() -> None:
    model, drawn, image_shape = settings.bev_config(configs.bev())
    assert (model, drawn, image_shape) == (ModelConfig(), MapConfig(), (900, 1600))
    assert settings.line_config(configs.line()) == (ModelConfig(), MapConfig())
    assert settings.map_config(configs.MAP, (10, 2, 30)) == MapConfig()
    assert criterion() == CriterionConfig()


def test_other_numbers_are_taken_over() -> None:
    model, _, _ = settings.bev_config(configs.bev(d_model=64, num_decoder_layers=2, dropout=0.0, tgt_shape=(32, 16)))
    wanted = dataclasses.replace(ModelConfig(), hidden=64, bev_decoder_layers=2, dropout=0.0, bev_size=(32, 16))
    assert model == wanted
    _, drawn = settings.line_config(configs.line(query_split=(5, 6, 7)))
    assert drawn.num_queries == (5, 6, 7)
    assert criterion(no_object_coe=0.25).no_object_weight == 0.25


@pytest.mark.parametrize(
    "changes",
    [
        {"src_pos_encode": "sine"},
        {"dec_n_points": 4},
        {"activation": "gelu"},
        {"src_shape": [(32, 336), (8, 84)]},
        {"use_projection": False},
    ],
)
def test_other_bev_decoders_are_refused(changes) -> None:
    with pytest.raises(PivotNetError, match=f"bev_decoder has {next(iter(changes))}=.*correct the config"):
        settings.bev_config(configs.bev(**changes))


@pytest.mark.parametrize("changes", [{"pre_norm": True}, {"mask_dim": 128}, {"num_classes": 3}])
def test_other_line_decoders_are_refused(changes) -> None:
    with pytest.raises(PivotNetError, match=f"ins_decoder has {next(iter(changes))}="):
        settings.line_config(configs.line(**changes))


def test_other_losses_are_refused() -> None:
    with pytest.raises(PivotNetError, match="coe_endpts"):
        criterion(coe_endpts=4)
    sem = {"decoder_weights": [1, 1, 1, 1], "mask_loss_conf": {"ce_weight": 2, "dice_weight": 1}}
    with pytest.raises(PivotNetError, match="mask_loss_conf has ce_weight=2"):
        criterion(sem_loss_conf=sem)
