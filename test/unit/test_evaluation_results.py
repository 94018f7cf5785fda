"""From predictions to result files and vector maps: which queries become polylines, what is written is read, and what
cannot be trusted is reported. test/golden has upstream's polylines, masks and files."""

import json

import numpy as np
import pytest
import torch
from support.made_data import write_dividers
from torch import nn

from pivotnet.annotation.npz import is_whole
from pivotnet.config import MapConfig, preset
from pivotnet.errors import PivotNetError
from pivotnet.evaluation import results
from pivotnet.evaluation.inference import Predictor, draw_mask, postprocess
from pivotnet.evaluation.results import MapInstances, load_result, save_result
from pivotnet.evaluation.vector_map import predicted_lines, save_vector_map
from pivotnet.structures import Predictions

CONFIG = preset("smoke")
MAP = MapConfig()
COLUMNS = {"a": 7, "b": 70, "c": 150}


def random_predictions(map_config, batch=1, dtype=torch.float32):
    queries, points = map_config.total_queries, map_config.total_points
    torch.manual_seed(0)
    drawn = (torch.randn(1, batch, queries, 2), torch.rand(1, batch, points, 2), torch.randn(1, batch, points, 2))
    return [part.to(dtype) for part in drawn]


def test_a_tie_is_an_object():
    _, *rest = random_predictions(MAP)
    logits = torch.tensor([0.0, 4.0]).repeat(1, 1, MAP.total_queries, 1)
    logits[0, 0, 0, 0] = 4
    assert postprocess(Predictions(logits, *rest), MAP)[0].scores.tolist() == [0.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_equals_its_samples(dtype):
    whole = random_predictions(MAP, 3, dtype)
    for index, together in enumerate(postprocess(Predictions(*whole), MAP)):
        (alone,) = postprocess(Predictions(*(part[:, index : index + 1] for part in whole)), MAP)
        assert len(together) == len(alone) > 0
        np.testing.assert_array_equal(np.concatenate(together.points), np.concatenate(alone.points))
        np.testing.assert_array_equal(together.scores, alone.scores)
        np.testing.assert_array_equal(together.labels, alone.labels)


def test_more_than_255_instances_keep_their_ids():
    config = MapConfig(num_queries=(200, 150, 50))
    logits, *rest = random_predictions(config)
    logits[..., 0] = 100
    instances = postprocess(Predictions(logits, *rest), config)[0]
    mask = draw_mask(instances, config)
    assert len(instances) == mask.max() == 400
    assert mask[2][mask[2] > 0].min() > 350


class KnowsOneDivider(nn.Module):
    """Predicts, for a sample whose images are of grey k, a divider along column k + offset of the map."""

    def __init__(self, offset):
        super().__init__()
        self.offset = offset

    def forward(self, images, points, valid, final_only):
        assert final_only and not self.training and not torch.is_grad_enabled()
        logits = torch.zeros(1, len(images), CONFIG.map.total_queries, 2)
        logits[..., 1] = 9
        logits[:, :, 0, 0] = 18
        coordinates = torch.zeros(1, len(images), CONFIG.map.total_points, 2)
        coordinates[:, :, :10, 0] = torch.linspace(0, 0.9, 10)
        coordinates[:, :, :10, 1] = (images[:, 0, 0, 0, 0].float()[:, None] + self.offset + 0.5) / 200
        return Predictions(logits, coordinates, torch.ones_like(coordinates))


@pytest.mark.parametrize("offset", [0, 8, float("nan")])  # 8 pixels are 1.2 m
@pytest.mark.parametrize("training", [True, False])
def test_a_known_network_is_evaluated(tmp_path, offset, training):
    """Each sample is predicted under its token; the network's mode stays; what is not finite leaves no results."""
    write_dividers(tmp_path, COLUMNS)
    (tmp_path / "some.pth").write_bytes(b"weights")
    model = KnowsOneDivider(offset).train(training)
    predictor = Predictor(model, CONFIG, torch.device("cpu"), tmp_path, batch_size=2, workers=0)
    folder = tmp_path / "results"
    if np.isnan(offset):
        with pytest.raises(PivotNetError, match="NaN"):
            predictor.evaluate(tmp_path / "some.pth", list(COLUMNS), folder)
        assert not list(folder.glob("*.npz"))
        return
    result = predictor.evaluate(tmp_path / "some.pth", list(COLUMNS), folder)
    assert model.training is training and result.counts.tolist() == [3, 0, 0]
    assert result.ap[0].tolist() == ([0, 0, 0, 1] if offset else [1, 1, 1, 1])
    for token, column in COLUMNS.items():
        mask, instances = load_result(folder / f"{token}.npz")
        assert instances.labels.tolist() == [0]
        assert np.unique(np.nonzero(mask[0])[1]) == pytest.approx([column + offset], abs=1)


def some_result(count=4):
    rng = np.random.default_rng(count)
    lines = [(rng.random((rng.integers(2, 9), 2)) * [400, 200]).astype(np.float32) for _ in range(count)]
    labels = np.sort(rng.integers(0, 3, count)).astype(np.int64)
    instances = MapInstances(lines, rng.random(count).astype(np.float32), labels)
    return draw_mask(instances, MAP), instances


@pytest.mark.parametrize("count", [0, 1, 300])
def test_what_is_written_is_read(tmp_path, count):
    path = tmp_path / "token.npz"
    mask, instances = some_result(count)
    save_result(path, mask, instances)
    found_mask, found = load_result(path)
    assert len(found) == count and found_mask.dtype == mask.dtype
    wanted = [mask, instances.scores, instances.labels, *instances.points]
    for one, other in zip([found_mask, found.scores, found.labels, *found.points], wanted):
        np.testing.assert_array_equal(one, other)
    with np.load(path, allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays.files)
    whole = path.read_bytes()
    assert is_whole(path)
    for share in (0.0, 0.3, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        assert not is_whole(path)
        with pytest.raises(PivotNetError, match="token.npz"):
            load_result(path)


def test_what_does_not_fit_together_is_refused(tmp_path):
    path = tmp_path / "token.npz"
    mask, instances = some_result(2)
    save_result(path, mask, instances)
    with np.load(path) as arrays:
        whole = dict(arrays)
    offsets, points = whole["dt_res.offsets"], whole["dt_res.points"]
    for key, value, reason in (
        ("dt_mask", np.where(mask == 2, 3, mask), "id 3, and there are 2 instances"),
        ("dt_mask", mask[:, :4], r"dt_mask has shape \(3, 4, 200\), not \(3, 400, 200\)"),
        ("dt_mask", np.full(mask.shape, 2**31, np.int64), "dt_mask has the value 2147483648, which is not from 0"),
        ("dt_mask", np.full(mask.shape, -1), "dt_mask has the value -1"),
        ("dt_mask", np.ones_like(mask), "dt_mask covers 240000 pixels, more than 120000"),
        ("dt_mask", mask.astype(float), "dt_mask is of type float64"),
        ("dt_res.labels", np.array([0, 3]), "dt_res.labels has the value 3"),
        ("dt_res.labels", np.array([0]), "dt_res.labels has 1 instances, but dt_res.scores has 2"),
        ("dt_res.scores", np.array([np.nan, 1]), "dt_res.scores has the value nan"),
        ("dt_res.offsets", offsets[::-1], "3 offsets, which do not cut"),
        ("dt_res.points", points * 1e30, "dt_res.points has the value"),
        ("dt_res.points", points.T, "dt_res.points has shape"),
    ):
        np.savez(path, **{**whole, key: value})
        with pytest.raises(PivotNetError, match=rf"token\.npz .*{reason}"):
            load_result(path)
    np.savez(path, instance_mask=mask)
    with pytest.raises(PivotNetError, match="lacks dt_mask, dt_res.points"):
        load_result(path)


def test_a_folder_belongs_to_one_checkpoint(tmp_path):
    first, same, second = (tmp_path / f"{name}.pth" for name in ("first", "same", "second"))
    for path, content in ((first, "1"), (same, "1"), (second, "2")):
        path.write_text(content)
    folder = tmp_path / "runs" / "results"
    results.open_folder(folder, first, "smoke")
    save_result(folder / "a.npz", *some_result())
    results.open_folder(folder, same, "smoke")
    assert results.read_run(folder)["preset"] == "smoke"
    with pytest.raises(PivotNetError, match="holds results of .*first.pth, not of .*second.pth: choose another --res"):
        results.open_folder(folder, second, "smoke")
    (folder / "run.json").write_text("{")
    with pytest.raises(PivotNetError, match="run.json .*truncated or no JSON.*delete the folder"):
        results.open_folder(folder, first, "smoke")
    (folder / "run.json").unlink()
    with pytest.raises(PivotNetError, match="holds results of an unknown run"):
        results.open_folder(folder, first, "smoke")


def test_vector_map(tmp_path):
    lines = [np.array([[0.0, 100.0], [400.0, 101.0]], np.float32), np.array([[10.0, 20.0], [10.0, 180.0]], np.float32)]
    instances = MapInstances(lines, np.array([0.75, 0.5], np.float32), np.array([0, 1]))
    save_vector_map(tmp_path / "abc.json", "abc", predicted_lines(instances, MAP), "run/best.pth", MAP)
    assert json.loads((tmp_path / "abc.json").read_text()) == {
        "format": "pivotnet-vector-map",
        "version": 1,
        "token": "abc",
        "checkpoint": "run/best.pth",
        "range": {"x": [-30.0, 30.0], "y": [-15.0, 15.0]},
        "instances": [
            {"class": "divider", "score": 0.75, "points": [[30.0, 0.0], [-30.0, -0.15]]},
            {"class": "ped_crossing", "score": 0.5, "points": [[28.5, 12.0], [28.5, -12.0]]},
        ],
    }
