"""Upstream's keyword arguments become the presets; the adapters, put together as upstream does it, are our network, the
post-processor is our criterion; data set, transforms, loaders, converter and evaluator of the patched tree are ours."""

import dataclasses
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.samples import make_data, one_divider, token, write_dividers, write_results
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pivotnet.annotation.format import FOLDER, save_annotation
from pivotnet.audit.sample import random_lines
from pivotnet.config import CAMERAS, Config, CriterionConfig, MapConfig, ModelConfig, preset
from pivotnet.criterion.criterion import Criterion
from pivotnet.data.dataset import MapDataset
from pivotnet.data.targets import build_targets
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.results import load_result
from pivotnet.evaluation.score import format_table, score_results
from pivotnet.model.pivotnet import IMAGE_MEAN, IMAGE_STD, PivotNet
from pivotnet.structures import Targets
from pivotnet.upstream import settings
from pivotnet.upstream.annotation import convert_annotations
from pivotnet.upstream.environ import adapt_loader, adapt_optimizer
from pivotnet.upstream.evaluation import ResultEvaluator, annotated_splits
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
from pivotnet.upstream.samples import NuScenesMapDataset, load_sample, split_tokens
from pivotnet.upstream.substitutes import get_uncertain_point_coords_with_randomness, point_sample
from pivotnet.upstream.transform import Compose, Normalize, Resize, ToTensor_Pivot, load_images

# keyword arguments as upstream's configs give them, at full size
UPSTREAM_MAP = {"ego_size": (60, 30), "map_resolution": 0.15, "map_size": (400, 200)}
UPSTREAM_MAP |= {"mask_key": "instance_mask8", "line_width": 8, "save_thickness": 1}
PIVOT = {"max_pieces": (10, 2, 30)}


def bev_kwargs(**changes: Any) -> dict[str, Any]:
    sizes = {"in_channels": [384, 768], "src_shape": [(32, 336), (16, 168)], "tgt_shape": (64, 32), "d_model": 256}
    layers = {"num_encoder_layers": 4, "num_decoder_layers": 4, "n_heads": 8, "dim_feedforward": 1024, "dropout": 0.1}
    points = {"dec_n_points": 8, "enc_n_points": 8, "use_checkpoint": False, "use_projection": True}
    encoding = {"src_pos_encode": "learned", "tgt_pos_encode": "learned", "activation": "relu"}
    grid = {"map_size": (400, 200), "map_resolution": 0.15, "image_shape": (900, 1600), "return_intermediate_dec": True}
    return {**sizes, **layers, **points, **encoding, **grid, **changes}


def line_kwargs(**changes: Any) -> dict[str, Any]:
    """ins_decoder's net_kwargs without decoder_ids."""
    sizes = {"in_channels": 256, "hidden_dim": 256, "mask_dim": 256, "nheads": 8, "dim_feedforward": 2048}
    layers = {"dec_layers": 6, "pre_norm": False, "num_feature_levels": 1, "enforce_input_project": False}
    lines = {"mask_classification": True, "num_classes": 1, "query_split": (20, 25, 15), **PIVOT}
    return {**sizes, **layers, **lines, **changes}


def post_processor_kwargs(**changes: Any) -> dict[str, Any]:
    masks = {"ce_weight": 1, "dice_weight": 1}
    weights = {"sem_msk_loss": 3, "ins_obj_loss": 2, "ins_msk_loss": 5, "pts_loss": 30, "collinear_pts_loss": 10}
    terms = {"weight_dict": {**weights, "pt_logits_loss": 2}, "decoder_weights": [0.4, 0.4, 0.4, 0.8, 1.2, 1.6]}
    costs = {"cost_obj": 2, "cost_mask": 5, "coe_endpts": 5, "cost_pts": 30, "mask_loss_conf": masks}
    parts = {"criterion_conf": terms, "matcher_conf": costs, "pivot_conf": PIVOT, "map_conf": UPSTREAM_MAP}
    semantic = {"decoder_weights": [0.4, 0.8, 1.6, 2.4], "mask_loss_conf": masks}
    coefficients = {"no_object_coe": 0.5, "collinear_pts_coe": 0.2, "coe_endpts": 5}
    return {**parts, "sem_loss_conf": semantic, **coefficients, **changes}


MODEL = dataclasses.replace(
    preset("smoke").model, image_size=(64, 96), hidden=32, heads=8, bev_size=(16, 8), bev_encoder_layers=1,
    bev_decoder_layers=2, bev_feedforward=32, deformable_points=2, line_decoder_layers=2, line_feedforward=32,
    point_features=8, head_hidden=ModelConfig().head_hidden, mask_stride=1,
)  # fmt: skip
MAP = MapConfig(num_queries=(3, 2, 2))
CONFIG = Config("test", MODEL, MAP, CriterionConfig(decoder_weights=(0.5, 1.0), bev_weights=(0.5, 1.0)))
EFFB0 = {"model_name": "efficientnet-b0", "in_channels": 3, "out_stride": 32, "with_cp": False}


def bev(**changes):
    return settings.bev_config(bev_kwargs(**changes))


def line(**changes):
    return settings.line_config(line_kwargs(**changes))


def criterion(**changes):
    given = post_processor_kwargs(**changes)
    return settings.criterion_config(**{name: given[name] for name in given if name not in ("map_conf", "pivot_conf")})


def test_upstreams_numbers_are_the_presets():
    assert bev() == ModelConfig()
    assert line() == (ModelConfig(), MapConfig())
    assert settings.map_config(UPSTREAM_MAP, (10, 2, 30)) == MapConfig()
    assert criterion() == CriterionConfig()


def test_other_numbers_are_taken_over():
    model = bev(d_model=64, num_decoder_layers=2, dropout=0.0, tgt_shape=(32, 16))
    assert model == ModelConfig(hidden=64, bev_decoder_layers=2, dropout=0.0, bev_size=(32, 16))
    _, lines = line(query_split=(5, 6, 7))
    assert lines.num_queries == (5, 6, 7)
    assert criterion(no_object_coe=0.25).no_object_weight == 0.25


@pytest.mark.parametrize(
    ("convert", "changes", "message"),
    [
        (bev, {"src_pos_encode": "sine"}, "bev_decoder has src_pos_encode="),
        (bev, {"src_shape": [(32, 336), (8, 84)]}, "bev_decoder has src_shape="),
        (line, {"num_classes": 3}, "ins_decoder has num_classes="),
        (criterion, {"coe_endpts": 4}, "matcher_conf has coe_endpts="),
        (criterion, {"sem_loss_conf": {"mask_loss_conf": {"ce_weight": 2}}}, "mask_loss_conf has ce_weight=2"),
    ],
)
def test_what_the_port_does_not_support_is_refused(convert, changes, message):
    with pytest.raises(PivotNetError, match=f"{message}.*correct the config"):
        convert(**changes)


BEV = {"in_channels": [112, 320], "src_shape": [(4, 36), (2, 18)], "tgt_shape": (16, 8), "d_model": 32, "dropout": 0.0}
BEV |= {"num_encoder_layers": 1, "num_decoder_layers": 2, "dim_feedforward": 32, "dec_n_points": 2, "enc_n_points": 2}
LINE = {"in_channels": 32, "hidden_dim": 32, "mask_dim": 32, "dim_feedforward": 32, "dec_layers": 2}


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.im_backbone = EfficientNetBackbone(EFFB0, None, None, 2)
        self.im_backbone.bkb.stochastic_depth = PivotNet(MODEL, MAP).im_backbone.bkb.stochastic_depth
        self.bev_decoder = DeformTransformerBEVEncoder(**bev_kwargs(**BEV))
        self.ins_decoder = PointMask2formerINSDecoder([0, 1], None, **line_kwargs(**LINE, query_split=(3, 2, 2)))
        self.output_head = PivotMapOutputHead(32, [3, 2, 2], (400, 200), (10, 2, 30), 32, 8)
        given = post_processor_kwargs()
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
    curves = {"map": [0, *[np.zeros((25, 100, 2))] * 25], "confidence_level": [0.5] * 26, "pred_label": [1] * 26}
    np.savez_compressed(tmp_path / "b.npz", dt_mask=np.zeros_like(mask), dt_res=curves)
    assert len(load_result(tmp_path / "b.npz")[1]) == 25  # BeMapNet saves all curves of a class once an instance


def test_samples_of_another_data_set_and_decoders_that_are_left_out_are_refused(networks, inputs):
    with pytest.raises(PivotNetError, match="no reference_points: use the data set"):
        networks[0]({**inputs, "extra_infos": {}})
    with pytest.raises(PivotNetError, match="decoder_ids"):
        PointMask2formerINSDecoder([5], None, **line_kwargs())


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


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = make_data(tmp_path_factory.mktemp("data"), samples=3)
    (root / "lists").mkdir()
    for split in ("train", "val"):  # as upstream's, which list all of nuScenes
        (root / "lists" / f"{split}.txt").write_text("not_here\n" + token(0) + "\n")
    return root


def test_a_batch_is_that_of_our_own_data_set(root):
    where = {"nusc_root": str(root), "anno_root": str(root / FOLDER), "split_dir": str(root / "lists")}
    normalize = Normalize(IMAGE_MEAN, IMAGE_STD, to_rgb=True)
    transforms = Compose([Resize(img_scale=(896, 512)), normalize, ToTensor_Pivot()])
    dataset = NuScenesMapDataset(list(CAMERAS), {**UPSTREAM_MAP, **where}, transforms, "training")
    model = nn.Linear(1, 1)
    loader = adapt_loader(DataLoader(dataset, batch_size=2, pin_memory=True), model)
    assert len(dataset) == 3 and loader.pin_memory is False
    batch = next(iter(loader))
    own = MapDataset(preset("swint"), root, dataset.tokens, with_targets=True)
    for index in range(2):
        item = own.load(index)
        np.testing.assert_array_equal(batch["images"][index].numpy(), item.images[..., ::-1])
        torch.testing.assert_close(batch["extra_infos"]["reference_points"][index], item.reference_points)
        assert torch.equal(batch["extra_infos"]["reference_valid"][index], item.reference_valid)
    assert isinstance(batch["targets"], Targets) and len(batch["targets"].counts) == 2
    assert batch["extra_infos"]["token"] == dataset.tokens[:2]
    assert batch["extrinsic"].shape == (2, 6, 4, 4) and batch["intrinsic"].shape == (2, 6, 3, 3)
    network = PivotNet(ModelConfig(backbone="effb0", backbone_channels=(112, 320)), MapConfig())
    torch.testing.assert_close(load_images(batch, model), network.normalise(batch["images"].flip(-1)))
    with pytest.raises(PivotNetError, match="img_key_list"):
        NuScenesMapDataset(list(CAMERAS)[::-1], UPSTREAM_MAP, None)


def test_images_that_are_normalised_already_or_not_rgb_are_taken_as_they_are():
    images = torch.randn(1, 6, 3, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(load_images({"images": images}, nn.Linear(1, 1)), images.float())
    item = Normalize([1.0, 2.0, 3.0], [2.0, 2.0, 2.0], to_rgb=False)({"extra_infos": {}})
    settings = {key: torch.as_tensor(value)[None] for key, value in item["extra_infos"]["img_norm_cfg"].items()}
    images = torch.full((1, 6, 1, 1, 3), 5, dtype=torch.uint8)
    loaded = load_images({"images": images, "extra_infos": {"img_norm_cfg": settings}}, nn.Linear(1, 1))
    torch.testing.assert_close(loaded[0, 0, :, 0, 0], torch.tensor([2.0, 1.5, 1.0]))


def test_splits(root, tmp_path):
    annotated = root / FOLDER
    for name, tokens in (("train", [token(1), token(0)]), ("val", [token(1), "missing"]), ("night", ["missing"])):
        (tmp_path / f"{name}.txt").write_text("\n".join(tokens))
    assert split_tokens(tmp_path / "train.txt", annotated) == [token(1), token(0)]
    assert split_tokens(tmp_path / "val.txt", annotated) == [token(0), token(1), token(2)]
    for listed, folder in (("night", annotated), ("val", tmp_path / "nowhere")):
        with pytest.raises(PivotNetError, match=r"of the \d samples .* have no annotation .* run tools/anno_converter"):
            split_tokens(tmp_path / f"{listed}.txt", folder)


def test_the_optimiser_is_rebuilt_over_groups_that_have_parameters():
    model = nn.Linear(2, 2)
    parameters = ([model.weight], [model.bias], [])
    groups = [{"params": part, "lr": lr, "wd": 1e-4} for part, lr in zip(parameters, (1e-3, 1e-4, 1e-5))]
    optimizer = adapt_optimizer(torch.optim.AdamW(groups), model)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(1e-3, 0.01), (1e-4, 0.01)]
    assert optimizer.members[0][0] is model.weight


def test_bemapnet_is_not_trained_without_its_curves(tmp_path):
    sample, path = one_divider("a", 60), tmp_path / FOLDER / "a.npz"
    path.parent.mkdir(parents=True)
    save_annotation(path, dataclasses.replace(sample, map_vectors=sample.ego_vectors))
    assert load_sample(path, "val")["ctr_points"] == []
    with pytest.raises(PivotNetError, match=rf"have no bezier curves.*convert.py -d {tmp_path} --bezier --overwrite$"):
        load_sample(path, "train")


def test_the_table_is_that_of_our_own_evaluation(tmp_path, capsys):
    write_dividers(tmp_path, {"a": 60, "b": 60})
    write_results(tmp_path / "results", {"a": 60, "b": 64})
    listed = tmp_path / "val.txt"
    listed.write_text("a\nb\n")
    folders = {"gt_dir": str(tmp_path / FOLDER), "dt_dir": str(tmp_path / "results"), "val_txt": str(listed)}
    ResultEvaluator(**folders).execute()
    wanted = score_results(tmp_path / "results", tmp_path, ["a", "b"], 0.15)
    assert capsys.readouterr().out == format_table(wanted.ap) + "\n"
    for split, word in (("night", "a"), ("day", "unknown")):
        (tmp_path / f"{split}.txt").write_text(f"{word}\n")
    lists = [str(tmp_path / f"{name}.txt") for name in ("val", "day", "night")]
    assert annotated_splits(lists, tmp_path / FOLDER) == [lists[0], lists[2]]
    assert capsys.readouterr().out.endswith(f"not annotated in {tmp_path / FOLDER}: day\n")
    with pytest.raises(PivotNetError, match="map_resolution"):
        ResultEvaluator(**folders, map_resolution=(0.15, 0.3))


def test_the_converter_takes_upstreams_options(monkeypatch):
    seen = []
    called = "pivotnet.upstream.annotation.annotate"
    monkeypatch.setattr(called, lambda *words, **more: seen.append((*words, more)))
    convert_annotations(["-d", "root", "-v", "v1.0-mini", "v1.0-test", "--bezier"])
    assert seen == [("root", version, True, {"overwrite": False}) for version in ("v1.0-mini", "v1.0-test")]


def test_what_cannot_be_converted_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        convert_annotations(["-d", str(tmp_path), "--thickness", "1", "5"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith("error: the converter has thickness=[1, 5]")


def test_points_between_pixels_are_weighted():
    mask = torch.tensor([[0.0, 1.0], [2.0, 3.0]])[None, None]
    points = torch.tensor([[[0.5, 0.5], [0.25, 0.25], [0.75, 0.5]]])
    torch.testing.assert_close(point_sample(mask, points, align_corners=False), torch.tensor([[[1.5, 0.0, 2.0]]]))


def test_uncertain_points_are_chosen():
    torch.manual_seed(0)
    ramp = torch.linspace(-8, 8, 64).expand(2, 1, 64, 64)  # zero, the most uncertain logit, lies in the middle
    points = get_uncertain_point_coords_with_randomness(ramp, lambda logits: -logits.abs(), 100, 3.0, 0.75)
    assert points.shape == (2, 100, 2)
    chosen, anywhere = points[:, :75, 0], points[:, 75:, 0]
    assert (chosen - 0.5).abs().max() < 0.2 < (anywhere - 0.5).abs().max()
    none = get_uncertain_point_coords_with_randomness(ramp[:0], lambda logits: logits, 10, 3.0, 0.5)
    assert none.shape == (0, 10, 2)
