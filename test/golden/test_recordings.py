"""The committed recordings of upstream, through the same comparison as ``python tools/golden.py check DIR``."""

import json
import shutil
import sys
from pathlib import Path

import golden
import numpy as np
import pytest
import torch
from recordings import inputs
from recordings.golden_criterion import nested
from support.samples import COMMITTED, RECORDINGS

from pivotnet.config import preset
from pivotnet.errors import run_command
from pivotnet.model.pivotnet import PivotNet

# Full size, where other parts prove the same: "small" and "backbone" every layer, with gradients and in both modes,
# "forward/effb0" that full-size networks are put together of them, "loss" all that comes after.
FULL = {"trajectory", "forward/swint", "forward/res50"}


def misses(folder: Path, *parts: str) -> list[str]:
    return [f"{one.what}: {one.fault}" for one in golden.check(folder, parts) if one.fault]


@pytest.mark.parametrize(
    "part", [pytest.param(name, marks=pytest.mark.full if name in FULL else ()) for name in golden.PARTS]
)
def test_equal_to_upstream(part):
    assert misses(RECORDINGS, part) == []


def copy_of(name: str, folder: Path) -> Path:
    shutil.copy(COMMITTED / name, folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("name", "part", "key", "change"),
    [
        ("golden_loss.npz", "loss", "typical/total", 1e-4),
        ("golden_loss.npz", "loss", "typical/match_dt/0/0", 1),
        ("golden_matching.npz", "matching", "pdm/3/total", 1e-9),
        ("golden_postprocess.npz", "postprocess", "1/points", 1e-2),
        ("golden_transform.npz", "transform", "output", 1e-4),
        ("golden_ap.npz", "ap", "per_sample", 1e-4),
        ("golden_small.npz", "small", "eval/ctr_im/2/1", 1e-4),
        ("golden_small.npz", "small", "gradient/output_head.coords_head.layers.1.weight", 1e-2),
        ("golden_small.npz", "small", "projection/1/points", 1e-4),
        ("golden_backbone_effb0.npz", "backbone/effb0", "train/features/0", 1e-3),
        ("golden_backbone_effb0.npz", "backbone/effb0", "gradients/values", 1.0),
        pytest.param("golden_forward_effb0.npz", "forward/effb0", "eval/ctr_im/2/1", 2e-5, marks=pytest.mark.full),
    ],
)
def test_a_perturbed_recording_misses(tmp_path, name, part, key, change):
    arrays = dict(np.load(copy_of(name, tmp_path), allow_pickle=False))
    if part == "loss":  # one case is enough
        arrays = {k: v for k, v in arrays.items() if k == "seed" or k.startswith(key.split("/")[0] + "/")}
    values = arrays[key].copy()
    values.reshape(-1)[values.size // 2] += np.asarray(change, values.dtype)
    np.savez_compressed(tmp_path / name, **{**arrays, key: values})
    assert misses(tmp_path, part)


@pytest.mark.parametrize("change", ["statistics", "name", "order"])
def test_other_parameters_miss(tmp_path, change):
    part, key = ("initialisation", "parameters") if change == "statistics" else ("state_dict", "state_dict")
    path = copy_of(f"{part}_effb0.json", tmp_path)
    recorded = json.loads(path.read_text())
    if change == "statistics":
        recorded[key]["output_head.coords_head.layers.1.weight"]["std"] *= 1.1
    else:
        items = list(recorded[key].items())
        items[3] = ("kernel", items[3][1]) if change == "name" else items.pop(9)
        recorded[key] = dict(items)
    path.write_text(json.dumps(recorded))
    assert misses(tmp_path, f"{part}/effb0")


def test_outputs_go_to_upstream_by_decoder_and_class():
    outputs = inputs.outputs(0, "empty_class")
    found = nested(outputs)
    assert [len(rows) for rows in found.values()] == [6, 6, 6, 6, 4]
    assert all(found[name][int(i)][int(c)] is outputs[key] for key in outputs for name, i, c in [key.split("/")])


def test_missing_and_truncated_files_miss(tmp_path):
    path = copy_of("golden_matching.npz", tmp_path)
    path.write_bytes(path.read_bytes()[:2000])
    loss, matching, annotation = misses(tmp_path, "matching", "loss", "annotation", "small")  # "small" is optional
    assert loss == "loss: golden_loss.npz is missing" and annotation == "annotation: nuscenes.tar.gz is missing"
    assert matching.startswith("matching: cannot be read: ")


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "400")  # wide enough for the longest path
    copy_of("golden_matching.npz", tmp_path)

    def check(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["golden.py", "check", *arguments])
        return run_command(golden.main)

    assert check(str(tmp_path), "--parts", "matching") == 0
    assert "3 of 3 comparisons within tolerance" in capsys.readouterr().out
    assert check(str(tmp_path), "--parts", "loss") == 1
    assert "golden_loss.npz is missing" in capsys.readouterr().out
    for arguments in ([str(tmp_path / "nowhere")], [str(tmp_path), "--parts", "nonsense"]):
        assert check(*arguments) == 2
        message = capsys.readouterr().err
        assert message.startswith("error: ") and message.count("\n") == 1


def test_constants_and_copied_layers():
    """What names, shapes and statistics of single parameters do not show."""
    config = preset("effb0")
    network = PivotNet(config.model, config.map)
    state = network.state_dict()
    assert state["bev_decoder.bev_encoder.image_order"].tolist() == [2, 1, 0, 5, 4, 3]
    assert state["post_processor.criterion.empty_weight"].tolist() == [1.0, 0.5]
    torch.testing.assert_close(state["post_processor.criterion.collinear_pt_weight"], torch.tensor([0.2, 1.0]))
    for part in ("encoder", "decoder"):  # upstream copies one layer, then draws the matrices anew
        first, second = (f"bev_decoder.bev_encoder.{part}.layers.{number}.linear1" for number in (0, 1))
        assert torch.equal(state[f"{first}.bias"], state[f"{second}.bias"])
        assert not torch.equal(state[f"{first}.weight"], state[f"{second}.weight"])
