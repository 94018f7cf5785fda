"""The adapters, put together as upstream does it, are our network; the post-processor is our criterion."""

from __future__ import annotations

import dataclasses
import types
from typing import Any

import numpy as np
import pytest
import torch
import upstream_configs as configs
from torch import Tensor, nn

from pivotnet.config import Config, CriterionConfig, MapConfig, ModelConfig
from pivotnet.criterion.criterion import Criterion
from pivotnet.data.projection import project_bev_grid
from pivotnet.data.targets import build_targets
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.results import load_result
from pivotnet.model.pivotnet import PivotNet
from pivotnet.upstream.backbone import EfficientNetBackbone, ResNetBackbone, SwinTRBackbone
from pivotnet.upstream.bev_decoder import DeformTransformerBEVEncoder
from pivotnet.upstream.ins_decoder import PointMask2formerINSDecoder
from pivotnet.upstream.output_head import PivotMapOutputHead
from pivotnet.upstream.post_processor import PivotMapPostProcessor

MODEL = ModelConfig(
    backbone="effb0",
    backbone_channels=(112, 320),
    image_size=(64, 96),
    hidden=32,
    bev_size=(16, 8),
    bev_encoder_layers=1,
    bev_decoder_layers=2,
    bev_feedforward=32,
    deformable_points=2,
    dropout=0.0,
    line_decoder_layers=2,
    line_feedforward=32,
    point_features=8,
    drop_connect=0.0,
)
MAP = MapConfig(num_queries=(3, 2, 2))
WEIGHTS = CriterionConfig(decoder_weights=(0.5, 1.0), bev_weights=(0.5, 1.0))
EFFB0 = {"model_name": "efficientnet-b0", "in_channels": 3, "out_stride": 32, "with_cp": False}


def post_processor() -> PivotMapPostProcessor:
    given = configs.post_processor()
    criterion = {**given["criterion_conf"], "decoder_weights": [0.5, 1.0]}
    semantic = {**given["sem_loss_conf"], "decoder_weights": [0.5, 1.0]}
    return PivotMapPostProcessor(**{**given, "criterion_conf": criterion, "sem_loss_conf": semantic})


class Network(nn.Module):
    """As upstream's MapMaster is put together."""

    def __init__(self) -> None:
        super().__init__()
        self.im_backbone = EfficientNetBackbone(EFFB0, None, None, 2)
        self.im_backbone.bkb.stochastic_depth = PivotNet(MODEL, MAP).im_backbone.bkb.stochastic_depth
        self.bev_decoder = DeformTransformerBEVEncoder(
            **configs.bev(
                in_channels=[112, 320],
                src_shape=[(4, 36), (2, 18)],
                tgt_shape=(16, 8),
                d_model=32,
                num_encoder_layers=1,
                num_decoder_layers=2,
                dim_feedforward=32,
                dropout=0.0,
                dec_n_points=2,
                enc_n_points=2,
            )
        )
        line = configs.line(
            in_channels=32, hidden_dim=32, mask_dim=32, dim_feedforward=32, dec_layers=2, query_split=(3, 2, 2)
        )
        self.ins_decoder = PointMask2formerINSDecoder([0, 1], None, **line)
        self.output_head = PivotMapOutputHead(32, [3, 2, 2], (400, 200), (10, 2, 30), 32, 8)
        self.post_processor = post_processor()

    def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        outputs = dict(inputs)
        for part in (self.im_backbone, self.bev_decoder, self.ins_decoder, self.output_head):
            outputs.update(part(outputs))
        return outputs


def cameras() -> tuple[Tensor, Tensor]:
    turns = torch.deg2rad(torch.tensor([55.0, 0, -55, 110, 180, -110]))
    zero, one = torch.zeros(6), torch.ones(6)
    axes = [torch.stack(axis, -1) for axis in ((turns.sin(), -turns.cos(), zero), (zero, zero, -one))]
    axes.append(torch.stack((turns.cos(), turns.sin(), zero), -1))
    extrinsic = torch.eye(4).repeat(6, 1, 1)
    extrinsic[:, :3, :3] = torch.stack(axes, -1)
    extrinsic[:, 2, 3] = 1.6
    intrinsic = torch.tensor([[1250.0, 0, 800], [0, 1250, 450], [0, 0, 1]]).repeat(6, 1, 1)
    return extrinsic[None], intrinsic[None]


def inputs(reference: bool) -> dict[str, Any]:
    torch.manual_seed(1)
    extrinsic, intrinsic = cameras()
    infos: dict[str, Any] = {}
    if reference:
        points, valid = project_bev_grid(extrinsic[0], intrinsic[0], MODEL.bev_size, MAP)
        infos = {"reference_points": points[None], "reference_valid": valid[None]}
    images = torch.randn(1, 6, 3, *MODEL.image_size)
    return {"images": images, "extra_infos": infos, "extrinsic": extrinsic, "intrinsic": intrinsic}


@pytest.fixture(scope="module")
def networks() -> tuple[Network, PivotNet]:
    torch.manual_seed(0)
    network, own = Network(), PivotNet(MODEL, MAP)
    assert list(network.state_dict()) == list(own.state_dict())
    own.load_state_dict(network.state_dict())
    return network, own


@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_the_adapters_are_the_network(networks, reference: bool, training: bool) -> None:
    network, own = networks
    given = inputs(reference)
    points, valid = project_bev_grid(given["extrinsic"][0], given["intrinsic"][0], MODEL.bev_size, MAP)
    network.train(training), own.train(training)
    with torch.no_grad():
        found = network(given)["outputs"]
        wanted = own(given["images"], points[None], valid[None], final_only=not training)
    for name in ("object_logits", "points", "point_logits", "masks", "semantic_logits"):
        left, right = getattr(found, name), getattr(wanted, name)
        assert (left is None) == (right is None)
        if left is not None:
            torch.testing.assert_close(left, right)


def target() -> tuple[np.ndarray, dict[int, np.ndarray], dict[int, np.ndarray]]:
    masks = np.zeros((3, 400, 200), np.uint8)
    masks[0, 100:300, 50:58] = 2
    points = {0: np.zeros((1, 10, 2)), 1: np.zeros(0), 2: np.zeros(0)}
    points[0][0, :2] = [[0.75, 0.27], [0.25, 0.27]]
    return masks, points, {0: np.array([2]), 1: np.zeros(0), 2: np.zeros(0)}


def test_the_post_processor_is_the_criterion(networks) -> None:
    network, _ = networks
    network.train()
    outputs = network(inputs(True))["outputs"]
    config = Config("test", MODEL, MAP, WEIGHTS)
    config = dataclasses.replace(config, model=dataclasses.replace(MODEL, mask_stride=1))
    wanted = Criterion(config)(outputs, build_targets([target()], config))
    masks, points, lengths = target()
    collated = {  # as torch's default collation makes it of upstream's samples
        "masks": torch.from_numpy(masks)[None],
        "points": {kind: torch.from_numpy(value)[None] for kind, value in points.items()},
        "valid_len": {kind: torch.from_numpy(value)[None] for kind, value in lengths.items()},
    }
    for targets in (build_targets([target()], config), collated):
        total, terms = network.post_processor(outputs, targets)
        torch.testing.assert_close(total, wanted.total)
        assert set(terms) == set(wanted.terms)
    total.backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


def test_results_are_read_by_the_evaluation(networks, tmp_path) -> None:
    network, _ = networks
    network.eval()
    with torch.no_grad():
        results, masks = network.post_processor(network(inputs(True))["outputs"])
    np.savez_compressed(tmp_path / "a.npz", dt_mask=masks[0], dt_res=results[0])  # as upstream's configs save them
    loaded = load_result(tmp_path / "a.npz")
    assert len(loaded.instances) == len(results[0]["map"]) - 1 == len(results[0]["pred_label"]) - 1
    np.testing.assert_array_equal(loaded.mask, masks[0])


def test_flipped_images_are_refused(networks) -> None:
    given = inputs(False)
    given["extra_infos"]["do_flip"] = torch.tensor([True])
    with pytest.raises(PivotNetError, match="do_flip"):
        networks[0](given)


def test_decoders_that_are_left_out_are_refused() -> None:
    with pytest.raises(PivotNetError, match="decoder_ids"):
        PointMask2formerINSDecoder([5], None, **configs.line())


BACKBONES = {
    "res50": (ResNetBackbone, {"depth": 50, "with_cp": False, "frozen_stages": 1}, (512, 1024, 2048)),
    "effb0": (EfficientNetBackbone, {**EFFB0, "norm_layer": nn.SyncBatchNorm}, (40, 112, 320)),
    "swint": (SwinTRBackbone, {"arch": "tiny", "out_indices": (1, 2, 3), "use_checkpoint": False}, (192, 384, 768)),
}


@pytest.mark.parametrize("name", list(BACKBONES))
def test_three_features_for_bemapnet(name: str) -> None:
    build, options, channels = BACKBONES[name]
    backbone = build(options, None, (4, 6), 3).eval()
    with torch.no_grad():
        result = backbone({"images": torch.randn(1, 6, 3, 64, 96)})
    sizes = [tuple(level.shape) for level in result["im_bkb_features"]]
    assert sizes == [(6, width, 8 >> i, 12 >> i) for i, width in enumerate(channels)]
    assert result["im_nek_features"][0].shape == (6, sum(channels), 4, 6)
    frozen = {key.split(".")[1] for key, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == ({"conv1", "bn1", "layer1"} if name == "res50" else set())


def test_a_missing_weight_file_is_an_error_unless_it_is_not_wanted(tmp_path, monkeypatch) -> None:
    options = {**EFFB0, "weights_path": str(tmp_path / "none.pth")}
    with pytest.raises(PivotNetError, match="none.pth is missing: .* set PIVOTNET_BACKBONE_WEIGHTS=none"):
        EfficientNetBackbone(options, None, None, 2)
    monkeypatch.setenv("PIVOTNET_BACKBONE_WEIGHTS", "none")
    assert EfficientNetBackbone(options, None, None, 2).up_shape is None


def test_upstreams_transformer_gets_the_cameras_side_by_side(monkeypatch) -> None:
    seen: dict[str, Any] = {}

    class Transformer(nn.Module):
        def forward(self, level: Tensor, cameras_info: dict[str, Any]) -> Any:
            seen.update(level=level, cameras=cameras_info)
            return None, None, level[None]

    module = types.ModuleType("mapmaster.models.bev_decoder.transformer")
    module.Transformer = Transformer  # type: ignore[attr-defined]
    for name in ("mapmaster", "mapmaster.models", "mapmaster.models.bev_decoder"):
        monkeypatch.setitem(__import__("sys").modules, name, types.ModuleType(name))
    monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
    from pivotnet.upstream.bev_decoder import TransformerBEVDecoder

    level = torch.arange(2 * 6 * 3 * 4 * 5.0).view(12, 3, 4, 5)
    given = {"images": torch.zeros(2, 6, 3, 8, 10), "im_nek_features": [level], "extra_infos": {"do_flip": 1}}
    maps = TransformerBEVDecoder("im_nek_features")(given)["bev_enc_features"]
    assert len(maps) == 1 and seen["cameras"]["do_flip"] == 1
    torch.testing.assert_close(seen["level"], torch.cat(level.view(2, 6, 3, 4, 5).unbind(1), dim=-1))
