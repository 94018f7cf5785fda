"""From predictions to result files, vector maps, average precision and pictures, against numbers worked out by hand or
by a plain formula; ``pivotnet evaluate``, ``predict`` and ``render`` on a small tree, and their errors.

test/golden has upstream's polylines, masks and files, average precision of 24 samples, its recalls and its table.
"""

import json
import os
import shutil
import subprocess

import cv2
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from support.commands import ENVIRONMENT, fails
from support.samples import FORWARD, INTRINSIC, PLACE, one_divider, write_dividers, write_images, write_results
from torch import nn

from pivotnet.annotation.format import FOLDER, Line
from pivotnet.annotation.npz import is_whole
from pivotnet.cli import main
from pivotnet.config import MapConfig, preset
from pivotnet.errors import PivotNetError
from pivotnet.evaluation import score
from pivotnet.evaluation.ap import ApResult, average_precision, chamfer_matrix, greedy_match, pixel_sets, sample_ap
from pivotnet.evaluation.drawing import COLOURS, NEAR, project_ground_line, render_sample
from pivotnet.evaluation.inference import Predictor, draw_mask, postprocess
from pivotnet.evaluation.results import MapInstances, load_result, open_folder, read_run, save_result
from pivotnet.evaluation.score import format_table, write_table
from pivotnet.evaluation.vector_map import predicted_lines, save_vector_map
from pivotnet.launch import torchrun
from pivotnet.model.pivotnet import PivotNet
from pivotnet.structures import Predictions

RESOLUTION = 0.15


def random_mask(seed, lines, size=(60, 40)):
    """An id mask of random walks; later lines overdraw earlier ones."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, np.uint8)
    for index in range(lines):
        walk = rng.integers(0, size) + np.cumsum(rng.integers(-1, 2, (rng.integers(1, 50), 2)), 0)
        inside = walk[((walk >= 0) & (walk < size)).all(1)]
        mask[inside[:, 0], inside[:, 1]] = index + 1
    return mask


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_pixel_sets_are_the_pixels_of_each_id(dtype):
    mask = np.stack([random_mask(seed, 6, (63, 41)) for seed in (3, 4)]).astype(dtype) * 20
    mask[1, -1, -1] = np.iinfo(dtype).max
    mask[0, 0, 0] = 1
    sets = pixel_sets(mask, RESOLUTION)
    lines = [(layer, line) for layer in range(2) for line in np.unique(mask[layer])[1:]]
    assert list(zip(sets.labels.tolist(), sets.ids.tolist())) == lines
    for points, (layer, line) in zip(sets.lines(), lines):
        expected = np.argwhere(mask[layer] == line).astype(np.float32) * np.float32(RESOLUTION)
        np.testing.assert_array_equal(points, expected.astype(np.float64))


def moved_lines(offset):
    """Two masks of four lines; the second's are moved. In pixels the distances tie, in float32 metres they do not."""
    masks = np.zeros((2, 1, 400, 200), np.uint8)
    for index in range(4):
        for mask, (down, right) in zip(masks, ((0, 0), offset)):
            row, column = 20 + 90 * index + down, 50 + 20 * index + right
            mask[0, row : row + 30, column] = index + 1
    return masks


@pytest.mark.parametrize(
    "masks",
    [[random_mask(seed + k, 12)[None] for k in (0, 100)] for seed in range(2)]
    + [moved_lines(offset) for offset in ((0, 1), (0, -1), (3, 0), (7, 7))],
)
def test_chamfer_distances_below_the_limit_are_exact(masks, monkeypatch):
    """Also where lines are too large for a matrix of distances."""
    first, second = (pixel_sets(mask, RESOLUTION) for mask in masks)
    pairs = [[np.linalg.norm(a[:, None] - b, axis=-1) for b in second.lines()] for a in first.lines()]
    exact = np.array([[(pair.min(1).mean() + pair.min(0).mean()) / 2 for pair in row] for row in pairs], np.float32)
    distances = chamfer_matrix(first, second, 1.6)
    near = exact < 1.6
    assert near.any() and not near.all()
    np.testing.assert_array_equal(distances[near].astype(np.float32), exact[near])
    assert (distances[~near] >= 1.6).all()
    monkeypatch.setattr("pivotnet.evaluation.ap._MOST_DISTANCES", 10)
    np.testing.assert_array_equal(chamfer_matrix(first, second, 1.6), distances)


@pytest.mark.parametrize(
    ("distance", "threshold", "matches"), [(0.5, 0.5, 0), (0.2 - 1e-12, 0.2, 0), (0.2 - 1e-6, 0.2, 1)]
)
def test_a_pair_at_the_threshold_in_float32_is_no_match(distance, threshold, matches):
    assert len(greedy_match(np.array([[distance]]), threshold)[0]) == matches


@pytest.mark.parametrize(
    ("matched", "scores", "num_true", "expected"),
    [
        # ascending confidence: the one match comes last, with precision 1/2 at recall 1; or first
        ([0], [0.9, 0.3], 1, 0.5),
        ([1], [0.9, 0.3], 1, 1),
        # on equal confidence matches come first
        ([2], [0.5] * 3, 1, 1),
        # miss, hit, hit: precision 0, 1/2, 2/3 becomes 2/3 at every recall
        ([1, 2], [0.1, 0.2, 0.3], 2, 2 / 3),
        # a recall of exactly 7/10 misses its point
        (range(7), np.linspace(0.1, 0.9, 7), 10, 0.6),
        (range(8), np.linspace(0.1, 0.9, 8), 10, 0.8),
        # more predictions than upstream's 99: the nearest of 200 has the highest confidence, and so comes last
        ([0], np.linspace(0.9, 0.5, 200), 1, 1 / 200),
    ],
)
def test_average_precision(matched, scores, num_true, expected):
    """Predictions ``matched`` were matched in that order, at 0.3 m; a class of fewer predictions is padded."""
    found, confidence = np.full((2, 2, len(scores) + 3), np.inf, np.float32)
    rank = np.zeros(found.shape, np.int64)
    found[0, matched] = 0.3
    rank[0, matched] = range(len(matched))
    confidence[0, : len(scores)] = scores
    ap = average_precision(found, rank, confidence, np.array([num_true, 1]))
    assert ap.ravel().tolist() == pytest.approx([0] + [expected] * 3 + [0] * 4)


def test_ap_is_zero_if_predictions_or_truth_are_empty_and_nan_if_both_are():
    none, some = np.zeros((1, 60, 40), np.uint8), random_mask(0, 3)[None]
    assert np.isnan(sample_ap(none, np.zeros(0), none, RESOLUTION)).all()
    assert sample_ap(none, np.zeros(0), some, RESOLUTION).tolist() == [[0, 0, 0, 0]]
    # whatever another class has
    both = sample_ap(np.stack([none[0], some[0]]), np.full(3, 0.5), np.stack([some[0], some[0]]), RESOLUTION)
    assert both.tolist() == [[0, 0, 0, 0], [1, 1, 1, 1]]


def test_the_table_of_a_class_that_no_sample_has(tmp_path):
    sums = np.array([[1, 2, 3, 4], [0, 0, 0, 0], [0.8, 0.8, 0.8, 0.8]], np.float32)
    result = ApResult(sums, np.array([4, 0, 4]), samples=5)
    (tmp_path / "run.json").write_text('{"checkpoint": "a.pth", "fingerprint": "0", "preset": "swint"}')
    write_table(tmp_path / "ap.json", result, "val", tmp_path)
    content = json.loads((tmp_path / "ap.json").read_text())
    divider, crossing, boundary = content["classes"].values()
    assert (content["split"], content["checkpoint"], content["samples"]) == ("val", "a.pth", 5)
    assert divider["AP"] == {"0.2": 0.25, "0.5": 0.5, "1.0": 0.75, "1.5": 1.0} and boundary["samples"] == 4
    assert divider["percent"]["mAP_easy"] == 75.0
    assert crossing["AP"]["0.5"] is None and content["mAP_hard"] is None
    lines = format_table(result.ap).splitlines()
    assert lines[5].split("|")[2:4] == ["     nan ", "     nan "] and "nan" in lines[9]
    assert len({len(line) for line in lines}) == 1


CONFIG = preset("smoke")
MAP = MapConfig()
COLUMNS = {"a": 7, "b": 70, "c": 150}


def random_predictions(batch=1):
    queries, points = MAP.total_queries, MAP.total_points
    torch.manual_seed(0)
    return torch.randn(1, batch, queries, 2), torch.rand(1, batch, points, 2), torch.randn(1, batch, points, 2)


def test_a_tie_is_an_object():
    _, *rest = random_predictions()
    logits = torch.tensor([0.0, 4.0]).repeat(1, 1, MAP.total_queries, 1)
    logits[0, 0, 0, 0] = 4
    assert postprocess(Predictions(logits, *rest), MAP)[0].scores.tolist() == [0.5]


def test_a_batch_equals_its_samples():
    whole = random_predictions(3)
    for index, together in enumerate(postprocess(Predictions(*whole), MAP)):
        (alone,) = postprocess(Predictions(*(part[:, index : index + 1] for part in whole)), MAP)
        assert len(together) == len(alone) > 0
        np.testing.assert_array_equal(np.concatenate(together.points), np.concatenate(alone.points))
        np.testing.assert_array_equal(together.scores, alone.scores)
        np.testing.assert_array_equal(together.labels, alone.labels)


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
    assert mask.max() == count, "more than 255 instances keep their ids"
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
        ("dt_mask", np.ones_like(mask), "dt_mask covers 240000 pixels, more than 120000"),
        ("dt_mask", mask.astype(float), "dt_mask is of type float64"),
        ("dt_res.labels", np.array([0, 3]), "dt_res.labels has the value 3"),
        ("dt_res.labels", np.array([0]), "dt_res.labels has 1 instances, but dt_res.scores has 2"),
        ("dt_res.scores", np.array([np.nan, 1]), "dt_res.scores has the value nan"),
        ("dt_res.offsets", offsets[::-1], "3 offsets, which do not cut"),
        ("dt_res.points", points * 1e30, "dt_res.points has the value"),
    ):
        np.savez(path, **{**whole, key: value})
        with pytest.raises(PivotNetError, match=rf"token\.npz .*{reason}"):
            load_result(path)


def test_a_folder_belongs_to_one_checkpoint(tmp_path):
    first, same, second = (tmp_path / f"{name}.pth" for name in ("first", "same", "second"))
    for path, content in ((first, "1"), (same, "1"), (second, "2")):
        path.write_text(content)
    folder = tmp_path / "runs" / "results"
    open_folder(folder, first, "smoke")
    save_result(folder / "a.npz", *some_result())
    open_folder(folder, same, "smoke")
    assert read_run(folder)["preset"] == "smoke"
    with pytest.raises(PivotNetError, match="holds results of .*first.pth, not of .*second.pth: choose another --res"):
        open_folder(folder, second, "smoke")
    (folder / "run.json").write_text("{")
    with pytest.raises(PivotNetError, match="run.json .*truncated or no JSON.*delete the folder"):
        open_folder(folder, first, "smoke")
    (folder / "run.json").unlink()
    with pytest.raises(PivotNetError, match="holds results of an unknown run"):
        open_folder(folder, first, "smoke")


def test_vector_map(tmp_path):
    lines = [np.array([[0.0, 100.0], [400.0, 101.0]], np.float32), np.array([[10.0, 20.0], [10.0, 180.0]], np.float32)]
    instances = MapInstances(lines, np.array([0.75, 0.5], np.float32), np.array([0, 1]))
    save_vector_map(tmp_path / "abc.json", "abc", predicted_lines(instances, MAP), "run/best.pth", MAP)
    head = {"format": "pivotnet-vector-map", "version": 1, "token": "abc", "checkpoint": "run/best.pth"}
    extent = {"x": [-30.0, 30.0], "y": [-15.0, 15.0]}
    divider = {"class": "divider", "score": 0.75, "points": [[30.0, 0.0], [-30.0, -0.15]]}
    crossing = {"class": "ped_crossing", "score": 0.5, "points": [[28.5, 12.0], [28.5, -12.0]]}
    written = json.loads((tmp_path / "abc.json").read_text())
    assert written == {**head, "range": extent, "instances": [divider, crossing]}


TOKENS = ["aa", "bb", "cc"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three samples in val, one in train that is not annotated, and smoke.pth."""
    root = tmp_path_factory.mktemp("nuscenes")
    write_dividers(root, {token: 60 + 20 * index for index, token in enumerate(TOKENS)})
    (root / FOLDER / "splits" / "train.txt").write_text("dd\n")
    torch.manual_seed(0)
    model = PivotNet(CONFIG.model, CONFIG.map)
    state = {"model_state": model.state_dict(), "pivotnet": {"config": CONFIG.to_dict()}}
    torch.save(state, root / "smoke.pth")
    return root


@pytest.fixture
def arguments(root):
    return f"--ckpt {root}/smoke.pth --data-root {root} --workers 0 --device cpu".split()


@pytest.fixture
def results(tmp_path):
    write_results(tmp_path / "results", dict.fromkeys(TOKENS))
    return tmp_path / "results"


def test_evaluate_keeps_results_of_the_same_checkpoint(tmp_path, arguments, capsys):
    results = tmp_path / "new"
    command = ["evaluate", *arguments, "--results", str(results), "--batch-size", "2"]
    assert main(command) == 0
    first = capsys.readouterr().out
    (results / "bb.npz").write_bytes(b"PK")  # as if truncated by a full disk
    kept = {token: (results / f"{token}.npz").stat().st_mtime_ns for token in TOKENS}
    assert main(command) == 0
    second = capsys.readouterr().out
    assert "mAP@HARD" in first and "over 3 samples" in first
    assert second == f"2 of 3 samples have results in {results}; predicting the rest\n{first}"
    changed = [token for token in TOKENS if (results / f"{token}.npz").stat().st_mtime_ns != kept[token]]
    assert changed == ["bb"]
    assert "in another format than upstream" in fails(capsys, *command, "--format", "upstream")
    written = json.loads((results / "ap_val.json").read_text())
    assert (written["split"], written["preset"], written["samples"]) == ("val", "smoke", 3)


def test_results_in_upstreams_format_score_the_same(tmp_path, root, arguments, capsys):
    checkpoint = shutil.copy(root / "smoke.pth", tmp_path)
    tables = []
    for options in ([], ["--format", "upstream"]):
        assert main(["evaluate", *arguments, "--ckpt", checkpoint, *options]) == 0
        tables.append(capsys.readouterr().out.split("mAP_hard")[0])
    assert tables[0] == tables[1]
    with np.load(tmp_path / "results_smoke_upstream" / "aa.npz", allow_pickle=True) as arrays:
        assert arrays.files == ["dt_mask", "dt_res"]
        found = arrays["dt_res"].item()  # as upstream's eval.py reads it
    mask, own = load_result(tmp_path / "results_smoke" / "aa.npz")
    assert found["map"][0] is None and found["confidence_level"] == [-1, *own.scores.tolist()]
    assert found["pred_label"] == [0, *(own.labels + 1).tolist()] and len(found["map"]) == mask.max() + 1


@pytest.mark.parametrize("stored", [True, False])
def test_render_draws_at_most_limit_samples_over_the_split(tmp_path, root, results, stored):
    options = ["--results", str(results)] if stored else []
    assert main(["render", "--data-root", str(root), "--limit", "2", "--output", str(tmp_path / "out"), *options]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["aa.png", "cc.png"]


def test_two_ranks_predict_each_its_share(tmp_path, arguments):
    words = ["-m", "pivotnet", "evaluate", *arguments, "--results", str(tmp_path)]
    command = torchrun.command(2, torchrun.Nodes(), words)
    run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("mAP@HARD") == 1
    assert sorted(path.stem for path in tmp_path.glob("*.npz")) == TOKENS


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("evaluate --data-root ROOT --ckpt NONE --device cpu", "none does not exist"),
        ("evaluate --data-root ROOT --results NONE", "no result file in NONE, which does not exist"),
        ("evaluate ARGUMENTS --results TAKEN", "cannot make"),
        ("predict ARGUMENTS --tokens aa zz", "1 of 2 samples have no annotation in"),
        ("render ARGUMENTS --results NONE", "--ckpt and --results both"),
    ],
)
def test_errors_before_anything_is_predicted(tmp_path, arguments, root, capsys, command, message):
    (tmp_path / "taken").write_text("")
    names = {"ARGUMENTS": " ".join(arguments), "ROOT": root}
    names.update(NONE=tmp_path / "none", TAKEN=tmp_path / "taken")
    for name, value in names.items():
        command, message = command.replace(name, str(value)), message.replace(name, str(value))
    assert message in fails(capsys, *command.split())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_truncated_result_file_is_reported(results, root, workers, capsys, monkeypatch):
    monkeypatch.setattr(score, "CHUNK", 2)
    os.truncate(results / "cc.npz", 500)
    command = ("evaluate", "--data-root", root, "--results", results, "--workers", workers)
    assert "cc.npz is damaged" in fails(capsys, *command)


def test_a_list_of_tokens_in_a_file(tmp_path, results, root, capsys):
    listed, empty = tmp_path / "list.txt", tmp_path / "empty.txt"
    listed.write_text("bb.npz\n\n")
    empty.write_text("\n")
    command = ["evaluate", "--data-root", str(root), "--results", str(results), "--tokens"]
    assert main([*command, str(listed)]) == 0
    assert f"over 1 samples -> {results / 'ap_tokens.json'}" in capsys.readouterr().out
    assert "lists no tokens" in fails(capsys, *command, empty)


def project(points):
    return project_ground_line(np.array(points, float), FORWARD, PLACE, INTRINSIC)


def test_the_parts_of_a_line_ahead_of_the_camera_are_projected():
    (line,) = project([[11, 0], [21, -2]])
    # 10 m ahead, 1.5 m below: 150 pixels below the centre; 20 m ahead, 2 m to the right
    np.testing.assert_allclose(line, [[800, 600], [900, 525]])
    assert project([[-10, 0], [-2, 3]]) == project(np.empty((0, 2))) == []
    (line,) = project([[-9, 2], [11, 2]])  # is cut at the near plane
    depth = 1000 * PLACE[2] / (line[:, 1] - 450)
    np.testing.assert_allclose(depth, [NEAR, 10])
    np.testing.assert_allclose(line[:, 0], 800 - 2000 / np.array([NEAR, 10]))
    pieces = project([[11, 3], [6, 3], [-9, 3], [-9, -3], [6, -3], [11, -3]])
    assert [len(piece) for piece in pieces] == [3, 3]
    assert (pieces[0][:, 0] < 800).all() and (pieces[1][:, 0] > 800).all()


def pixels_of(picture, label):
    colour = np.array(to_rgb(COLOURS[label]))[::-1] * 255
    return int((np.abs(picture - colour).max(-1) < 30).sum())


def test_a_prediction_stands_beside_the_truth(tmp_path):
    """A divider, a crossing and a boundary of one point, in front of grey images; without one there is no picture."""
    sample = one_divider("a", 80)
    sample.ego_vectors += [Line(np.array([[20.0, 3], [20, -3]]), 1), Line(np.array([[5.0, 5]]), 2)]
    write_images(tmp_path, sample)
    predicted = [Line(np.array([[25.0, -8], [3, -2], [-25, -2]]), 2, 0.8)]
    render_sample(tmp_path / "both.png", "a", sample, tmp_path, MAP, predicted)
    render_sample(tmp_path / "truth.png", "a", sample, tmp_path, MAP)
    truth, both = (cv2.imread(str(tmp_path / f"{name}.png")).astype(float) for name in ("truth", "both"))
    # the lines in six images, from above and in the legend; of the boundary, which is a point, only the legend
    assert pixels_of(truth, 0) > 4000 and pixels_of(truth, 1) > 2000 and 20 < pixels_of(truth, 2) < 400
    assert truth.shape[1] > 2 * truth.shape[0]
    assert both.shape[1] > truth.shape[1] + 300 and pixels_of(both, 2) > 2000
    (tmp_path / sample.image_paths[4]).unlink()
    with pytest.raises(PivotNetError, match="camera image .*CAM_BACK.*missing"):
        render_sample(tmp_path / "none.png", "a", sample, tmp_path, MAP)
    assert not (tmp_path / "none.png").exists()
