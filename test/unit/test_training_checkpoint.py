"""Checkpoints: what is saved comes back, upstream's layout is kept, and bad files give one line."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from pivotnet import checkpoint as checkpoints
from pivotnet.config import Config, preset
from pivotnet.errors import PivotNetError
from pivotnet.model.pivotnet import PivotNet, load_model
from pivotnet.training.optim import build_optimizer

CPU = torch.device("cpu")
CONFIG = preset("smoke")


@pytest.fixture(scope="module")
def trained() -> tuple[PivotNet, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = PivotNet(CONFIG.model, CONFIG.map)
    optimizer = build_optimizer(model, CONFIG.optim, (1e-3, 1e-4), CPU)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return model, optimizer


def packed(trained, step: int = 12, config: Config = CONFIG) -> dict:
    model, optimizer = trained
    return checkpoints.pack_checkpoint(
        model=model, optimizer=optimizer, config=config, step=step, steps_per_epoch=5, run={"world_size": 1}
    )


def test_layout_is_upstreams(trained):
    state = packed(trained)
    assert {"epoch", "it", "global_step", "model_state", "optimizer_state", "callback"} < state.keys()
    assert (state["epoch"], state["it"], state["global_step"]) == (1, 12, 12)
    groups = state["optimizer_state"]["param_groups"]
    assert len(groups) == 3 and groups[2]["params"] == []
    assert all(not name.startswith("module.") for name in state["model_state"])


def test_upstreams_optimizer_takes_the_state(trained):
    """Upstream builds AdamW over three groups, of which the last is empty, and loads the state into it."""
    model = trained[0]
    names = dict(model.named_parameters())
    groups = [
        {"params": [p for name, p in names.items() if "backbone" not in name], "lr": 1.0, "wd": 1e-4},
        {"params": [p for name, p in names.items() if "backbone" in name], "lr": 1.0, "wd": 1e-4},
        {"params": [], "lr": 1.0, "wd": 1e-4},
    ]
    theirs = torch.optim.AdamW(groups)
    theirs.load_state_dict(copy.deepcopy(packed(trained)["optimizer_state"]))
    for parameter in model.parameters():
        assert torch.equal(theirs.state[parameter]["exp_avg"], trained[1].state[parameter]["exp_avg"])


def test_everything_comes_back(trained, tmp_path):
    path = tmp_path / "step.pth"
    checkpoints.save_checkpoint(path, packed(trained))
    state = checkpoints.read_checkpoint(path)
    assert checkpoints.config_from_dict(state["pivotnet"]["config"]) == CONFIG
    torch.manual_seed(1)
    model = PivotNet(CONFIG.model, CONFIG.map)
    optimizer = build_optimizer(model, CONFIG.optim, (1.0, 1.0), CPU)
    checkpoints.load_weights(model, state, path, CONFIG)
    checkpoints.load_optimizer_state(optimizer, state["optimizer_state"])
    for name, value in trained[0].state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    for old, new in zip(trained[0].parameters(), model.parameters()):
        for key, value in trained[1].state[old].items():
            assert torch.equal(optimizer.state[new][key], value)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-4]


def test_a_model_is_loaded_with_its_own_configuration(trained, tmp_path):
    config = dataclasses.replace(CONFIG, optim=dataclasses.replace(CONFIG.optim, epochs=3))
    checkpoints.save_checkpoint(tmp_path / "own.pth", packed(trained, config=config))
    model, loaded = load_model(tmp_path / "own.pth", CPU)
    assert loaded == config and not model.training
    with pytest.raises(PivotNetError, match="is of preset smoke .* not res50"):
        load_model(tmp_path / "own.pth", CPU, "res50")


def test_upstreams_checkpoint_needs_a_preset(trained, tmp_path):
    path = tmp_path / "checkpoint_epoch_29.pth"
    weights = {f"module.{name}": value for name, value in trained[0].state_dict().items()}
    torch.save({"epoch": 29, "it": 9, "global_step": 9, "model_state": weights, "callback": {}}, path)
    with pytest.raises(PivotNetError, match="effb0 backbone.*give --preset"):
        load_model(path, CPU)
    model, _ = load_model(path, CPU, "smoke")
    assert torch.equal(
        model.state_dict()["ins_decoder.bev_decoder.query_feat"], weights["module.ins_decoder.bev_decoder.query_feat"]
    )


def test_another_backbone_is_one_line(trained, tmp_path):
    path = tmp_path / "step.pth"
    checkpoints.save_checkpoint(path, packed(trained))
    small = dataclasses.replace(
        CONFIG, name="small", model=dataclasses.replace(CONFIG.model, backbone="res50", backbone_channels=(1024, 2048))
    )
    with pytest.raises(PivotNetError, match="holds a effb0 backbone, preset small has res50") as caught:
        checkpoints.load_weights(PivotNet(small.model, small.map), checkpoints.read_checkpoint(path), path, small)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change, message", [("drop", "lacks 1 of"), ("add", "unknown 1 of"), ("shape", "other shapes of 1")]
)
def test_weights_that_do_not_fit(trained, change, message):
    state = packed(trained)
    weights = dict(state["model_state"])
    name = "output_head.coords_head.layers.0.weight"
    if change == "drop":
        del weights[name]
    elif change == "add":
        weights["output_head.extra"] = torch.zeros(1)
    else:
        weights[name] = torch.zeros(1)
    with pytest.raises(PivotNetError, match=message):
        checkpoints.load_weights(trained[0], {"model_state": weights}, "some.pth", CONFIG)


class _Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


@pytest.mark.parametrize("content", ["truncated", "text", "pickle", "evil", "list", "missing"])
def test_bad_files_are_one_line(trained, tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pth"
    checkpoints.save_checkpoint(path, packed(trained))
    if content == "truncated":
        path.write_bytes(path.read_bytes()[:100_000])
    elif content == "text":
        path.write_text("no checkpoint")
    elif content == "pickle":
        path.write_bytes(pickle.dumps({"model_state": {}}))
    elif content == "evil":
        torch.save({"model_state": {"a": _Evil()}}, path)
    elif content == "list":
        torch.save([1, 2], path)
    else:
        path.unlink()
    with pytest.raises(PivotNetError, match="bad.pth") as caught:
        checkpoints.read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "evil").exists()


def test_weights_that_are_not_finite_are_not_saved():
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.bias[1] = float("inf")
    with pytest.raises(PivotNetError, match="weight bias is not finite"):
        checkpoints.host_state(layer)


def test_the_newest_are_kept(tmp_path):
    for step in (5, 10, 100, 20):
        (tmp_path / checkpoints.NAME.format(step)).write_text("x")
    (tmp_path / "best.pth").write_text("mine")
    checkpoints.remove_old(tmp_path, 2)
    assert [path.name for path in checkpoints.list_checkpoints(tmp_path)] == ["step_00000020.pth", "step_00000100.pth"]
    assert (tmp_path / "best.pth").exists()


@pytest.fixture()
def small_disk(tmp_path: Path):
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"cannot mount a small disk: {error}")
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_leaves_the_old_checkpoint(trained, small_disk):
    old = small_disk / checkpoints.NAME.format(1)
    weights = {"model_state": {"a": torch.ones(3)}}
    checkpoints.save_checkpoint(old, weights)
    with pytest.raises(PivotNetError, match="cannot write .*No space left on device") as caught:
        checkpoints.save_checkpoint(small_disk / checkpoints.NAME.format(2), packed(trained))
    assert "\n" not in str(caught.value)
    assert [path.name for path in small_disk.iterdir()] == [old.name]
    assert torch.equal(checkpoints.read_checkpoint(old)["model_state"]["a"], torch.ones(3))


def test_a_write_that_fails_late_is_the_same(trained, tmp_path, monkeypatch):
    """As above where no small disk can be mounted: the stream itself runs out of space in the middle."""
    written = 0

    class Full(checkpoints._Stream):
        def write(self, data):
            nonlocal written
            written += len(data)
            if written > 10_000_000 and self.failure is None:
                self.failure = OSError(28, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(checkpoints, "_Stream", Full)
    with pytest.raises(PivotNetError, match="No space left on device"):
        checkpoints.save_checkpoint(tmp_path / "new.pth", packed(trained))
    assert list(tmp_path.iterdir()) == []
