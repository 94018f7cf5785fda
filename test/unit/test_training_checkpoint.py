"""Checkpoints: what is saved comes back, upstream's layout is kept, and bad files give one line."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import resource
from pathlib import Path

import pytest
import torch

from pivotnet import checkpoint as checkpoints
from pivotnet import device as devices
from pivotnet.config import preset
from pivotnet.distributed import Ranks
from pivotnet.errors import PivotNetError
from pivotnet.model.pivotnet import load_model
from pivotnet.training.loop import Run, Trainer
from pivotnet.training.setup import build_trainer, find_resumed

CPU = torch.device("cpu")
CONFIG = preset("smoke")
NAME = "output_head.coords_head.layers.0.weight"


def new_trainer(**run) -> Trainer:
    return build_trainer(CONFIG, CPU, Ranks(), Run(Path(), steps_per_epoch=5, **run))


@pytest.fixture(scope="module")
def trained() -> Trainer:
    """After twelve steps, as far as the checkpoint knows."""
    trainer = new_trainer(lr=1e-3, backbone_lr=1e-4)
    for parameter in trainer.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    trainer.optimizer.step()
    trainer.step = 12
    return trainer


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory) -> Path:
    """Its checkpoint; not to be changed."""
    path = tmp_path_factory.mktemp("saved") / "step.pth"
    checkpoints.save_checkpoint(path, trained._state([devices.rng_state(CPU)]))
    return path


def test_upstream_takes_the_state(trained):
    """Upstream builds AdamW over three groups, of which the last is empty, and loads the state into it."""
    state = trained._state([devices.rng_state(CPU)])
    assert {"epoch", "it", "global_step", "model_state", "optimizer_state", "callback"} < state.keys()
    assert (state["epoch"], state["it"], state["global_step"]) == (1, 12, 12)
    assert all(not name.startswith("module.") for name in state["model_state"])
    names = dict(trained.model.named_parameters())
    groups = [
        {"params": [p for name, p in names.items() if "backbone" not in name], "lr": 1.0, "wd": 1e-4},
        {"params": [p for name, p in names.items() if "backbone" in name], "lr": 1.0, "wd": 1e-4},
        {"params": [], "lr": 1.0, "wd": 1e-4},
    ]
    theirs = torch.optim.AdamW(groups)
    theirs.load_state_dict(copy.deepcopy(state["optimizer_state"]))
    torch.testing.assert_close(theirs.state_dict()["state"], trained.optimizer.state_dict()["state"], rtol=0, atol=0)


def test_everything_comes_back(trained, saved):
    state = checkpoints.read_checkpoint(saved)
    assert checkpoints.config_from_dict(state["pivotnet"]["config"]) == CONFIG
    other = new_trainer(seed=1)
    checkpoints.load_weights(other.model, state, saved, CONFIG)
    checkpoints.load_optimizer_state(other.optimizer, state["optimizer_state"])
    torch.testing.assert_close(other.model.state_dict(), trained.model.state_dict(), rtol=0, atol=0)
    old, new = (trainer.optimizer.state_dict()["state"] for trainer in (trained, other))
    torch.testing.assert_close(old, new, rtol=0, atol=0)
    assert [group["lr"] for group in other.optimizer.param_groups] == [1e-3, 1e-4]


def test_a_model_is_loaded_with_its_own_configuration(saved, tmp_path):
    state = checkpoints.read_checkpoint(saved)
    config = dataclasses.replace(CONFIG, optim=dataclasses.replace(CONFIG.optim, epochs=3))
    state["pivotnet"]["config"] = config.to_dict()
    checkpoints.save_checkpoint(tmp_path / "own.pth", state)
    model, loaded = load_model(tmp_path / "own.pth", CPU)
    assert loaded == config and not model.training
    with pytest.raises(PivotNetError, match="is of preset smoke .* not res50"):
        load_model(tmp_path / "own.pth", CPU, "res50")


def test_upstreams_checkpoint_needs_a_preset(trained, tmp_path):
    path = tmp_path / "checkpoint_epoch_29.pth"
    weights = {f"module.{name}": value for name, value in trained.model.state_dict().items()}
    torch.save({"epoch": 29, "it": 9, "global_step": 9, "model_state": weights, "callback": {}}, path)
    with pytest.raises(PivotNetError, match="effb0 backbone.*give --preset effb0 or smoke$"):
        load_model(path, CPU)
    model, _ = load_model(path, CPU, "smoke")
    assert torch.equal(model.state_dict()[NAME], weights[f"module.{NAME}"])


SMALL = dataclasses.replace(
    CONFIG, name="small", model=dataclasses.replace(CONFIG.model, backbone="res50", backbone_channels=(1024, 2048))
)


@pytest.mark.parametrize(
    "change, config, message",
    [
        (lambda weights: weights.pop(NAME), CONFIG, "lacks 1 of"),
        (lambda weights: weights.update(extra=torch.zeros(1)), CONFIG, "unknown 1 of"),
        (lambda weights: weights.update({NAME: torch.zeros(1)}), CONFIG, "other shapes of 1"),
        (lambda weights: None, SMALL, "holds a effb0 backbone, preset small has res50"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(trained, change, config, message):
    weights = dict(trained.model.state_dict())
    change(weights)
    with pytest.raises(PivotNetError, match=message) as caught:
        checkpoints.load_weights(trained.model, {"model_state": weights}, "some.pth", config)
    assert "\n" not in str(caught.value)


class _Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


@pytest.mark.parametrize(
    "write",
    [
        lambda path, whole: path.write_bytes(whole[:100_000]),
        lambda path, whole: path.write_text("no checkpoint"),
        lambda path, whole: path.write_bytes(pickle.dumps({"model_state": {}})),
        lambda path, whole: torch.save({"model_state": {"a": _Evil()}}, path),
        lambda path, whole: torch.save([1, 2], path),
        lambda path, whole: None,
    ],
    ids=["truncated", "text", "pickle", "evil", "list", "missing"],
)
def test_bad_files_are_one_line(saved, tmp_path, write, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "bad.pth", saved.read_bytes())
    with pytest.raises(PivotNetError, match="bad.pth") as caught:
        checkpoints.read_checkpoint(tmp_path / "bad.pth")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "evil").exists()


def rewritten(saved: Path, path: Path, change, summed: bool) -> Path:
    """A checkpoint whose content is changed, with the right checksum or with none."""
    state = torch.load(saved, weights_only=True)
    change(state)
    if summed:
        checkpoints.save_checkpoint(path, state)
    else:
        torch.save({key: value for key, value in state.items() if key != "checksum"}, path)
    return path


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: state["model_state"][NAME].fill_(float("nan")), rf"\.model_state\.{NAME} is not finite"),
        (lambda state: state["model_state"].update({NAME: torch.ones(1).expand(2**40)}), "for which it has no bytes"),
        (lambda state: state["model_state"].update({NAME: torch.eye(3).to_sparse()}), "not a dense tensor"),
        (lambda state: state["model_state"].update({NAME: [1.0]}), "is of type list, not a dense tensor"),
        (lambda state: state.update(optimizer_state=5), r"\.optimizer_state is 5, not an object"),
        (lambda state: state["optimizer_state"].update(param_groups=[]), "a list of 1 to inf items"),
        (lambda state: state["pivotnet"].update(step=-1), r"\.pivotnet\.step is -1, not a whole number from 0"),
        (lambda state: state["pivotnet"].pop("config"), r"\.pivotnet lacks 'config'"),
        (lambda state: state["pivotnet"]["rng"][0].update(torch=torch.zeros(3)), "no state of torch's generator"),
        (lambda state: state["pivotnet"]["config"]["model"].update(hidden=10**9), "not a whole number from 1 to 1024"),
        (lambda state: state["pivotnet"]["config"]["model"].update(dropout="x"), "not a number"),
    ],
)
def test_what_a_checkpoint_must_hold(saved, tmp_path, change, message):
    path = rewritten(saved, tmp_path / "bad.pth", change, False)
    with pytest.raises(PivotNetError, match=rf"checkpoint .*bad\.pth: .*{message}.*; take another one"):
        checkpoints.read_checkpoint(path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda config: config["model"].update(hidden=33), "configuration of no network"),
        (lambda config: config["model"].update(image_size=(33, 64)), "another map or network"),
        (lambda config: config["map"].update(map_size=(40, 20)), "another map or network"),
        (lambda config: config["model"].update(new=1), "of another version"),
    ],
)
def test_a_configuration_of_no_network_is_one_line(saved, tmp_path, change, message):
    path = rewritten(saved, tmp_path / "bad.pth", lambda state: change(state["pivotnet"]["config"]), True)
    with pytest.raises(PivotNetError, match=message):
        load_model(path, CPU)


def test_a_changed_bit_of_any_tensor_is_noticed(saved, tmp_path):
    """Upstream's files, and those of older versions, have no checksum: they load as before."""
    whole = saved.read_bytes()
    state = torch.load(saved, weights_only=True)
    for tensor in (state["model_state"][NAME], state["optimizer_state"]["state"][0]["exp_avg"]):
        place = whole.index(tensor.numpy().tobytes()[:64]) + 9
        (tmp_path / "bad.pth").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(PivotNetError, match="bad.pth has changed since it was written"):
            checkpoints.read_checkpoint(tmp_path / "bad.pth")
    older = rewritten(saved, tmp_path / "older.pth", lambda state: state["model_state"][NAME].add_(1), False)
    assert not torch.equal(checkpoints.read_checkpoint(older)["model_state"][NAME], state["model_state"][NAME])


def test_an_optimiser_of_another_network_is_refused(trained, saved):
    state = checkpoints.read_checkpoint(saved)["optimizer_state"]
    for change in (
        lambda: state["state"][0].update(exp_avg=torch.zeros(1)),
        lambda: state["param_groups"][0]["params"].pop(),
    ):
        change()
        with pytest.raises(PivotNetError, match="the optimiser's state"):
            checkpoints.load_optimizer_state(trained.optimizer, state)


def test_resume_goes_on_from_the_newest_good_checkpoint(saved, tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    whole = saved.read_bytes()
    for step, content in ((12, whole), (13, whole[:1000]), (14, whole.replace(b"smoke", b"smoky"))):
        (folder / checkpoints.NAME.format(step)).write_bytes(content)
    run = Run(tmp_path, steps=20, resume="")
    path, _, bad = find_resumed(run, CONFIG, Ranks())
    assert path is not None and path.name == "step_00000012.pth"
    assert [name in line for name, line in zip(("step_00000014.pth", "step_00000013.pth"), bad)] == [True, True]
    (folder / path.name).unlink()
    with pytest.raises(PivotNetError, match=r"step_00000014\.pth"):
        find_resumed(run, CONFIG, Ranks())
    rewritten(saved, folder / "step_00000015.pth", lambda state: state["pivotnet"].pop("seed"), True)
    with pytest.raises(PivotNetError, match="step_00000015.pth: lacks 'seed'; its run cannot be resumed"):
        find_resumed(run, CONFIG, Ranks())
    with pytest.raises(PivotNetError, match=r"step_00000013\.pth"):  # the one that was asked for, or none
        find_resumed(dataclasses.replace(run, resume=str(folder / "step_00000013.pth")), CONFIG, Ranks())


def test_weights_that_are_not_finite_are_not_saved():
    trainer = new_trainer()
    trainer.model.state_dict()[NAME][0] = float("inf")
    with pytest.raises(PivotNetError, match=f"weight {NAME} is not finite"):
        trainer._state([devices.rng_state(CPU)])


def test_the_newest_are_kept(tmp_path):
    for step in (5, 10, 100, 20):
        (tmp_path / checkpoints.NAME.format(step)).write_text("x")
    (tmp_path / "best.pth").write_text("mine")
    checkpoints.remove_old(tmp_path, 2)
    assert [path.name for path in checkpoints.list_checkpoints(tmp_path)] == ["step_00000020.pth", "step_00000100.pth"]
    assert (tmp_path / "best.pth").exists()


def test_a_full_disk_is_one_line_and_leaves_the_old_checkpoint(trained, tmp_path):
    """A limit on the size of files stands in for the disk: writing fails in the middle."""
    old = tmp_path / checkpoints.NAME.format(1)
    checkpoints.save_checkpoint(old, {"model_state": {"a": torch.ones(3)}})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, limits[1]))
    try:
        with pytest.raises(PivotNetError, match="cannot write .*File too large") as caught:
            checkpoints.save_checkpoint(tmp_path / checkpoints.NAME.format(2), trained._state([devices.rng_state(CPU)]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [old.name]
    assert torch.equal(checkpoints.read_checkpoint(old)["model_state"]["a"], torch.ones(3))
