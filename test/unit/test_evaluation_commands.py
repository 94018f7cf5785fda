"""``pivotnet evaluate``, ``predict`` and ``render`` on a small tree, their errors, and pictures."""

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
from support.made_data import FORWARD, INTRINSIC, PLACE, one_divider, write_dividers, write_images, write_results

from pivotnet.annotation.format import FOLDER, Line
from pivotnet.cli import main
from pivotnet.config import MapConfig, preset
from pivotnet.errors import PivotNetError
from pivotnet.evaluation import score
from pivotnet.evaluation.drawing import COLOURS, NEAR, project_ground_line, render_sample
from pivotnet.evaluation.results import load_result
from pivotnet.evaluation.vector_map import MapLine
from pivotnet.launch import torchrun
from pivotnet.model.pivotnet import PivotNet

TOKENS = ["aa", "bb", "cc"]
MAP = MapConfig()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three samples in val, one in train that is not annotated, and smoke.pth."""
    root = tmp_path_factory.mktemp("nuscenes")
    write_dividers(root, {token: 60 + 20 * index for index, token in enumerate(TOKENS)})
    (root / FOLDER / "splits" / "train.txt").write_text("dd\n")
    config = preset("smoke")
    torch.manual_seed(0)
    model = PivotNet(config.model, config.map)
    state = {"model_state": model.state_dict(), "pivotnet": {"config": config.to_dict()}}
    torch.save(state, root / "smoke.pth")
    return root


@pytest.fixture
def arguments(root):
    return f"--ckpt {root}/smoke.pth --data-root {root} --workers 0 --device cpu".split()


@pytest.fixture
def results(tmp_path):
    """Result files of all samples, without any line."""
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
        ("evaluate --data-root ROOT", "give --ckpt to predict"),
        ("evaluate --data-root ROOT --ckpt NONE --device cpu", "none does not exist"),
        ("evaluate --data-root TMP --ckpt ROOT/smoke.pth --device cpu", "no nuScenes tree"),
        ("evaluate ARGUMENTS --split train", "run pivotnet annotate"),
        ("evaluate --data-root ROOT --results NONE", "no result file in NONE, which does not exist"),
        ("evaluate ARGUMENTS --results TAKEN", "cannot make"),
        ("predict ARGUMENTS --tokens aa zz", "1 of 2 samples have no annotation in"),
        ("render --data-root ROOT --results NONE", "make them with pivotnet evaluate, or leave --results out"),
        ("render ARGUMENTS --results NONE", "--ckpt and --results both"),
    ],
)
def test_errors_before_anything_is_predicted(tmp_path, arguments, root, capsys, command, message):
    (tmp_path / "taken").write_text("")
    names = {"ARGUMENTS": " ".join(arguments), "ROOT": root, "TMP": tmp_path}
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
    assert project([[-10, 0], [-2, 3]]) == []
    (line,) = project([[-9, 2], [11, 2]])  # is cut at the near plane
    depth = 1000 * PLACE[2] / (line[:, 1] - 450)
    np.testing.assert_allclose(depth, [NEAR, 10])
    np.testing.assert_allclose(line[:, 0], 800 - 2000 / np.array([NEAR, 10]))
    pieces = project([[11, 3], [6, 3], [-9, 3], [-9, -3], [6, -3], [11, -3]])
    assert [len(piece) for piece in pieces] == [3, 3]
    assert (pieces[0][:, 0] < 800).all() and (pieces[1][:, 0] > 800).all()


def pixels_of(picture, label):
    """Pixels (BGR) that have the colour of a class."""
    colour = np.array(to_rgb(COLOURS[label]))[::-1] * 255
    return int((np.abs(picture - colour).max(-1) < 30).sum())


def test_a_prediction_stands_beside_the_truth(tmp_path):
    """A divider, a crossing and a boundary of one point, in front of grey images; without one there is no picture."""
    sample = one_divider("a", 80)
    sample.ego_vectors += [Line(np.array([[20.0, 3], [20, -3]]), 1), Line(np.array([[5.0, 5]]), 2)]
    write_images(tmp_path, sample)
    predicted = [MapLine(np.array([[25.0, -8], [3, -2], [-25, -2]]), 2, 0.8)]
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
