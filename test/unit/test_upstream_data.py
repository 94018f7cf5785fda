"""Data set, transforms, loaders, converter, evaluator and point sampling of the patched tree."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from support import upstream_configs as configs
from support.made_data import make_data, one_divider, token, write_dividers, write_results
from torch import nn
from torch.utils.data import DataLoader

from pivotnet.annotation.format import FOLDER, save_annotation
from pivotnet.config import CAMERAS, MapConfig, ModelConfig, preset
from pivotnet.data.dataset import MapDataset
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.score import format_table, score_results
from pivotnet.model.pivotnet import IMAGE_MEAN, IMAGE_STD, PivotNet
from pivotnet.structures import Targets
from pivotnet.upstream.annotation import convert_annotations
from pivotnet.upstream.environ import adapt_loader, adapt_optimizer
from pivotnet.upstream.evaluation import ResultEvaluator, annotated_splits
from pivotnet.upstream.samples import NuScenesMapDataset, load_sample, split_tokens
from pivotnet.upstream.substitutes import get_uncertain_point_coords_with_randomness, point_sample
from pivotnet.upstream.transform import Compose, Normalize, Resize, ToTensor_Pivot, load_images


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
    dataset = NuScenesMapDataset(list(CAMERAS), {**configs.MAP, **where}, transforms, "training")
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
        NuScenesMapDataset(list(CAMERAS)[::-1], configs.MAP, None)


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
    monkeypatch.setattr(
        "pivotnet.upstream.annotation.annotate_on_terminal", lambda *words, **more: seen.append((*words, more))
    )
    convert_annotations(["-d", "root", "-v", "v1.0-mini", "v1.0-test", "--bezier"])
    assert seen == [("root", version, True, {"overwrite": False}) for version in ("v1.0-mini", "v1.0-test")]


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--thickness", "1", "5"], "the converter has thickness=[1, 5]"), ([], "")],
    ids=["unsupported", "no tables"],
)
def test_what_cannot_be_converted_is_one_line(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        convert_annotations(["-d", str(tmp_path), *options])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith(f"error: {message}") and said.count("\n") == 1


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
