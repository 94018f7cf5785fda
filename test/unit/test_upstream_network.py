"""Upstream's keyword arguments become the presets; the adapters, put together as upstream does it, are our network,
the post-processor is our criterion."""

import dataclasses
import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
from support import upstream_configs as configs
from torch import Tensor, nn

from pivotnet.audit.sample import random_lines
from pivotnet.config import Config, CriterionConfig, MapConfig, ModelConfig, preset
from pivotnet.criterion.criterion import Criterion
from pivotnet.data.targets import build_targets
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.results import load_result
from pivotnet.model.pivotnet import PivotNet
from pivotnet.upstream import settings
from pivotnet.upstream.network import (
    DeformTransformerBEVEncoder,
    EfficientNetBackbone,
    PivotMapOutputHead,
    PivotMapPostProcessor,
    PointMask2formerINSDecoder,
    ResNetBackbone,
    SwinTRBackbone,
    TransformerBEVDecoder,
)

MODEL = dataclasses.replace(
    preset("smoke").model, image_size=(64, 96), hidden=32, heads=8, bev_size=(16, 8), bev_encoder_layers=1,
    bev_decoder_layers=2, bev_feedforward=32, deformable_points=2, line_decoder_layers=2, line_feedforward=32,
    point_features=8, head_hidden=ModelConfig().head_hidden, mask_stride=1,
)  # fmt: skip
MAP = MapConfig(num_queries=(3, 2, 2))
CONFIG = Config("test", MODEL, MAP, CriterionConfig(decoder_weights=(0.5, 1.0), bev_weights=(0.5, 1.0)))
EFFB0 = {"model_name": "efficientnet-b0", "in_channels": 3, "out_stride": 32, "with_cp": False}


def bev(**changes):
    return settings.bev_config(configs.bev(**changes))


def line(**changes):
    return settings.line_config(configs.line(**changes))


def criterion(**changes):
    given = configs.post_processor(**changes)
    return settings.criterion_config(**{name: given[name] for name in given if name not in ("map_conf", "pivot_conf")})


def test_upstreams_numbers_are_the_presets():
    assert bev() == ModelConfig()
    assert line() == (ModelConfig(), MapConfig())
    assert settings.map_config(configs.MAP, (10, 2, 30)) == MapConfig()
    assert criterion() == CriterionConfig()


def test_other_numbers_are_taken_over():
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
def test_what_the_port_does_not_support_is_refused(convert, changes, message):
    with pytest.raises(PivotNetError, match=f"{message}.*correct the config"):
        convert(**changes)


BEV = {"in_channels": [112, 320], "src_shape": [(4, 36), (2, 18)], "tgt_shape": (16, 8), "d_model": 32, "dropout": 0.0}
BEV |= {"num_encoder_layers": 1, "num_decoder_layers": 2, "dim_feedforward": 32, "dec_n_points": 2, "enc_n_points": 2}
LINE = {"in_channels": 32, "hidden_dim": 32, "mask_dim": 32, "dim_feedforward": 32, "dec_layers": 2}


class Network(nn.Module):
    """As upstream's MapMaster is put together."""

    def __init__(self) -> None:
        super().__init__()
        self.im_backbone = EfficientNetBackbone(EFFB0, None, None, 2)
        self.im_backbone.bkb.stochastic_depth = PivotNet(MODEL, MAP).im_backbone.bkb.stochastic_depth
        self.bev_decoder = DeformTransformerBEVEncoder(**configs.bev(**BEV))
        self.ins_decoder = PointMask2formerINSDecoder([0, 1], None, **configs.line(**LINE, query_split=(3, 2, 2)))
        self.output_head = PivotMapOutputHead(32, [3, 2, 2], (400, 200), (10, 2, 30), 32, 8)
        given = configs.post_processor()
        for conf in ("criterion_conf", "sem_loss_conf"):
            given[conf] = {**given[conf], "decoder_weights": [0.5, 1.0]}
        self.post_processor = PivotMapPostProcessor(**given)

    def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        outputs = dict(inputs)
        for part in (self.im_backbone, self.bev_decoder, self.ins_decoder, self.output_head):
            outputs.update(part(outputs))
        return outputs


@pytest.fixture
def inputs() -> dict[str, Any]:
    """One sample, as the data set gives it."""
    torch.manual_seed(1)
    infos = {"reference_points": torch.rand(1, 128, 2), "reference_valid": torch.rand(1, 128) < 0.8}
    return {"images": torch.randn(1, 6, 3, *MODEL.image_size), "extra_infos": infos}


@pytest.fixture(scope="module")
def networks() -> tuple[Network, PivotNet]:
    torch.manual_seed(0)
    network, own = Network(), PivotNet(MODEL, MAP)
    assert list(network.state_dict()) == list(own.state_dict())
    own.load_state_dict(network.state_dict())
    return network, own


@pytest.mark.parametrize("training", [True, False])
def test_the_adapters_are_the_network(networks, inputs, training):
    network, own = (part.train(training) for part in networks)
    with torch.no_grad():
        found = network(inputs)["outputs"]
        wanted = own(inputs["images"], *inputs["extra_infos"].values(), final_only=not training)
    for name in ("object_logits", "points", "point_logits", "masks", "semantic_logits"):
        left, right = getattr(found, name), getattr(wanted, name)
        assert (left is None) == (right is None)
        if left is not None:
            torch.testing.assert_close(left, right)


def test_the_post_processor_is_the_criterion(networks, inputs):
    network = networks[0].train()
    outputs = network(inputs)["outputs"]
    targets = build_targets([random_lines(MAP, np.random.default_rng(0), (1, 0, 2))], CONFIG)
    wanted = Criterion(CONFIG)(outputs, targets)
    total, terms = network.post_processor(outputs, targets)
    torch.testing.assert_close((total, terms), (wanted.total, wanted.terms))
    total.backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


def test_results_are_read_by_the_evaluation(networks, inputs, tmp_path):
    network = networks[0].eval()
    with torch.no_grad():
        results, masks = network.post_processor(network(inputs)["outputs"])
    np.savez_compressed(tmp_path / "a.npz", dt_mask=masks[0], dt_res=results[0])  # as upstream's configs save them
    mask, instances = load_result(tmp_path / "a.npz")
    assert len(instances) == len(results[0]["map"]) - 1 == len(results[0]["pred_label"]) - 1
    np.testing.assert_array_equal(mask, masks[0])


def test_samples_of_another_data_set_and_decoders_that_are_left_out_are_refused(networks, inputs):
    with pytest.raises(PivotNetError, match="no reference_points: use the data set"):
        networks[0]({**inputs, "extra_infos": {}})
    with pytest.raises(PivotNetError, match="decoder_ids"):
        PointMask2formerINSDecoder([5], None, **configs.line())


BACKBONES = {
    "res50": (ResNetBackbone, {"depth": 50, "with_cp": False, "frozen_stages": 1}, (512, 1024, 2048)),
    "effb0": (EfficientNetBackbone, {**EFFB0, "norm_layer": nn.SyncBatchNorm}, (40, 112, 320)),
    "swint": (SwinTRBackbone, {"arch": "tiny", "out_indices": (1, 2, 3), "use_checkpoint": False}, (192, 384, 768)),
}


@pytest.mark.parametrize("name", list(BACKBONES))
def test_three_features_for_bemapnet(name):
    build, options, channels = BACKBONES[name]
    backbone = build(options, None, (4, 6), 3).eval()
    with torch.no_grad():
        result = backbone({"images": torch.randn(1, 6, 3, 64, 96)})
    sizes = [tuple(level.shape) for level in result["im_bkb_features"]]
    assert sizes == [(6, width, 8 >> i, 12 >> i) for i, width in enumerate(channels)]
    assert result["im_nek_features"][0].shape == (6, sum(channels), 4, 6)
    frozen = {key.split(".")[1] for key, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == ({"conv1", "bn1", "layer1"} if name == "res50" else set())


def test_a_missing_weight_file_is_an_error_unless_it_is_not_wanted(tmp_path, monkeypatch):
    options = {**EFFB0, "weights_path": str(tmp_path / "none.pth")}
    folder = tmp_path / "else"
    monkeypatch.setenv("WEIGHTS", str(folder))
    message = f"none.pth is neither in {tmp_path} nor in {folder}: .* set PIVOTNET_BACKBONE_WEIGHTS=none"
    with pytest.raises(PivotNetError, match=message):
        EfficientNetBackbone(options, None, None, 2)
    folder.mkdir()
    (folder / "none.pth").write_text("<html>")
    with pytest.raises(PivotNetError, match=f"{folder / 'none.pth'}"):
        EfficientNetBackbone(options, None, None, 2)
    (folder / "none.pth").unlink()
    monkeypatch.setenv("PIVOTNET_BACKBONE_WEIGHTS", "none")
    assert EfficientNetBackbone(options, None, None, 2).up_shape is None


def test_upstreams_transformer_gets_the_cameras_side_by_side(monkeypatch):
    seen: dict[str, Any] = {}

    class Transformer(nn.Module):
        def forward(self, level: Tensor, cameras_info: dict[str, Any]) -> Any:
            seen.update(level=level, cameras=cameras_info)
            return None, None, level[None]

    for name in ("mapmaster", "mapmaster.models", "mapmaster.models.bev_decoder"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    module = types.SimpleNamespace(Transformer=Transformer)
    monkeypatch.setitem(sys.modules, "mapmaster.models.bev_decoder.transformer", module)
    level = torch.arange(2 * 6 * 3 * 4 * 5.0).view(12, 3, 4, 5)
    given = {"images": torch.zeros(2, 6, 3, 8, 10), "im_nek_features": [level], "extra_infos": {"do_flip": 1}}
    maps = TransformerBEVDecoder("im_nek_features")(given)["bev_enc_features"]
    assert len(maps) == 1 and seen["cameras"]["do_flip"] == 1
    torch.testing.assert_close(seen["level"], torch.cat(level.view(2, 6, 3, 4, 5).unbind(1), dim=-1))
