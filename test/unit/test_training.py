"""Parameter groups, learning rates and their schedule, against torch's own scheduler and upstream's table; checkpoints:
what is saved comes back, upstream's layout is kept, and bad files give one line; the training loop through the command,
on a network small enough for seconds."""

import copy
import dataclasses
import json
import math
import os
import pickle
import resource
import shutil
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from support.commands import fails, wait_for
from support.samples import Reduced, make_data
from support.script_copy import losses
from torch import nn

from pivotnet import cli, config
from pivotnet import device as devices
from pivotnet.checkpoint import (
    NAME,
    config_from_dict,
    list_checkpoints,
    load_optimizer_state,
    load_weights,
    read_checkpoint,
    save_checkpoint,
)
from pivotnet.config import OptimConfig, preset
from pivotnet.distributed import Ranks
from pivotnet.errors import PivotNetError
from pivotnet.files import lock_output
from pivotnet.model.pivotnet import PivotNet, load_model
from pivotnet.training import job, loop
from pivotnet.training.job import find_resumed
from pivotnet.training.loop import Run, Trainer
from pivotnet.training.optim import FlatAdamW, MultiStepSchedule, build_optimizer, learning_rates
from pivotnet.training.records import read_records
from pivotnet.training.summary import read_summary


def test_rates_follow_the_number_of_ranks_of_which_others_need_a_rate():
    for ranks, factor in ((1, 0.5), (2, 0.5), (4, 1.0), (8, 1.0), (16, 1.5), (32, 2.0)):
        assert learning_rates(OptimConfig(), ranks) == pytest.approx((2e-4 * factor, 5e-5 * factor))
    with pytest.raises(PivotNetError, match="6 ranks.*give --lr"):
        learning_rates(OptimConfig(), 6)
    assert learning_rates(OptimConfig(), 6, lr=1e-3) == pytest.approx((1e-3, 2.5e-4))
    assert learning_rates(OptimConfig(), 6, lr=1e-3, backbone_lr=1e-6) == (1e-3, 1e-6)
    assert learning_rates(OptimConfig(scale_lr=False), 6) == (2e-4, 5e-5)


def test_groups_part_by_name_and_keep_the_decay_in_force():
    config = preset("smoke")
    model = PivotNet(config.model, config.map)
    optimizer = build_optimizer(model, config.optim, (1e-3, 1e-4), Ranks())
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-4]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.01]
    network, backbone = optimizer.members
    assert [id(p) for p in backbone] == [id(p) for p in model.im_backbone.parameters()]
    assert len(network) + len(backbone) == len(list(model.parameters()))


def test_joined_parameters_learn_as_adamw():
    """Gradients in their own tensors, in slices of a larger one, and none at all; states go both ways."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((5, 7), (7,), (4,), (3, 2, 4), ())]

    def made(kind: Callable[..., torch.optim.Optimizer]) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
        values = [nn.Parameter(value.clone()) for value in start]
        groups = [
            {"params": values[:3], "lr": 1e-2, "wd": 1e-4},
            {"params": values[3:], "lr": 1e-3, "weight_decay": 0.1},
        ]
        return values, kind(groups, lr=1.0)

    def train(values: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            optimizer.zero_grad()
            joined = torch.cat([value.flatten() for value in (values[0], values[1], values[4])])
            (joined.pow(4).sum() + (values[3] * values[3].transpose(0, 2).flatten()[step]).sum()).backward()
            optimizer.step()

    flat, plain = made(partial(FlatAdamW, ranks=Ranks())), made(torch.optim.AdamW)
    for steps in (range(5), range(5, 9)):
        for values, optimizer in (flat, plain):
            train(values, optimizer, steps)
        for one, two in zip(flat[0], plain[0]):
            torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)
        states = [copy.deepcopy(optimizer.state_dict()) for _, optimizer in (flat, plain)]
        for (_, optimizer), state in zip((flat, plain), reversed(states)):
            state["state"] = {key: {**entry, "step": entry["step"].cpu()} for key, entry in state["state"].items()}
            optimizer.load_state_dict(state)
    assert torch.equal(flat[0][2], start[2])


def test_the_state_of_another_network_is_refused():
    values = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    optimizer = FlatAdamW([{"params": values}], Ranks(), lr=1.0)
    sum(value.sum() for value in values).backward()
    optimizer.step()
    state = optimizer.state_dict()
    with pytest.raises(PivotNetError, match=r"has groups of \[2\] parameters, the network has \[1\]"):
        FlatAdamW([{"params": values[:1]}], Ranks(), lr=1.0).load_state_dict(state)
    state["state"][0]["exp_avg"] = torch.ones(1)
    with pytest.raises(PivotNetError, match="has other shapes"):
        optimizer.load_state_dict(state)


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("epochs", [1, 2, 10, 30, 110])
def test_schedule_equals_torch(epochs):
    steps_per_epoch = 3
    ours, theirs = (
        torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.25)]) for _ in range(2)
    )
    milestones = [int(share * epochs) * steps_per_epoch for share in (0.7, 0.9)]
    scheduler = torch.optim.lr_scheduler.MultiStepLR(theirs, milestones, gamma=0.2)
    schedule = MultiStepSchedule(OptimConfig(epochs=epochs), (1.0, 0.25), steps_per_epoch)
    for step in range(epochs * steps_per_epoch):
        scheduler.step(step)  # upstream sets the rate of a step before the step, by its number
        schedule.apply(ours, step)
        expected = [group["lr"] for group in theirs.param_groups]
        assert [group["lr"] for group in ours.param_groups] == pytest.approx(expected)
    if epochs == 1:
        assert expected == pytest.approx([0.04, 0.01])  # both milestones lie at its first step


CPU = torch.device("cpu")
CONFIG = preset("smoke")
WEIGHT = "output_head.coords_head.layers.0.weight"


def new_trainer(**run) -> Trainer:
    return Trainer(CONFIG, CPU, Ranks(), Run(Path(), steps_per_epoch=5, **run))


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
    save_checkpoint(path, trained._state([devices.rng_state(CPU)]))
    return path


def test_upstream_takes_the_state(trained):
    """Upstream builds AdamW over three groups, of which the last is empty, and loads the state into it."""
    state = trained._state([devices.rng_state(CPU)])
    assert {"epoch", "it", "global_step", "model_state", "optimizer_state", "callback"} < state.keys()
    assert (state["epoch"], state["it"], state["global_step"]) == (1, 12, 12)
    assert all(not name.startswith("module.") for name in state["model_state"])
    groups: list[list] = [[], [], []]
    for name, parameter in trained.model.named_parameters():
        groups["backbone" in name].append(parameter)
    theirs = torch.optim.AdamW([{"params": group, "lr": 1.0, "wd": 1e-4} for group in groups])
    theirs.load_state_dict(copy.deepcopy(state["optimizer_state"]))
    torch.testing.assert_close(theirs.state_dict()["state"], trained.optimizer.state_dict()["state"], rtol=0, atol=0)


def test_everything_comes_back(trained, saved):
    state = read_checkpoint(saved)
    assert config_from_dict(state["pivotnet"]["config"]) == CONFIG
    other = new_trainer(seed=1)
    load_weights(other.model, state, saved, CONFIG)
    load_optimizer_state(other.optimizer, state["optimizer_state"])
    torch.testing.assert_close(other.model.state_dict(), trained.model.state_dict(), rtol=0, atol=0)
    old, new = (trainer.optimizer.state_dict()["state"] for trainer in (trained, other))
    torch.testing.assert_close(old, new, rtol=0, atol=0)
    assert [group["lr"] for group in other.optimizer.param_groups] == [1e-3, 1e-4]
    other.model.state_dict()[WEIGHT][0] = float("inf")
    with pytest.raises(PivotNetError, match=f"weight {WEIGHT} is not finite"):
        other._state([devices.rng_state(CPU)])


def test_a_model_is_loaded_with_its_own_configuration(saved, tmp_path):
    state = read_checkpoint(saved)
    config = dataclasses.replace(CONFIG, optim=dataclasses.replace(CONFIG.optim, epochs=3))
    state["pivotnet"]["config"] = config.to_dict()
    save_checkpoint(tmp_path / "own.pth", state)
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
    assert torch.equal(model.state_dict()[WEIGHT], weights[f"module.{WEIGHT}"])


@pytest.mark.parametrize(
    "changes, backbone, message",
    [
        ({WEIGHT: None}, "effb0", "lacks 1 of"),
        ({"extra": torch.zeros(1)}, "effb0", "unknown 1 of"),
        ({WEIGHT: torch.zeros(1)}, "effb0", "other shapes of 1"),
        ({}, "res50", "holds a effb0 backbone, preset smoke has res50"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(trained, changes, backbone, message):
    weights = {**trained.model.state_dict(), **changes}
    state = {"model_state": {name: value for name, value in weights.items() if value is not None}}
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, backbone=backbone))
    with pytest.raises(PivotNetError, match=rf"^.*{message}.*$"):
        load_weights(trained.model, state, "some.pth", config)


def test_bad_files_are_one_line(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad = tmp_path / "bad.pth"
    foreign = (pickle.dumps({"model_state": {}}), [1], Reduced(os.system, ("touch evil",)))
    for content in (None, saved.read_bytes()[:100_000], b"no checkpoint", *foreign):
        if isinstance(content, bytes):
            bad.write_bytes(content)
        elif content:
            torch.save({"model_state": {"a": content}}, bad)
        with pytest.raises(PivotNetError, match=r"^.*bad\.pth.*$"):
            read_checkpoint(bad)
    assert os.listdir() == ["bad.pth"], "nothing was executed"


def rewritten(saved: Path, path: Path, change, summed: bool) -> Path:
    """A checkpoint whose content is changed, with the right checksum or with none."""
    state = torch.load(saved, weights_only=True)
    change(state)
    if summed:
        save_checkpoint(path, state)
    else:
        torch.save({key: value for key, value in state.items() if key != "checksum"}, path)
    return path


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: state["model_state"][WEIGHT].fill_(float("nan")), rf"\.model_state\.{WEIGHT} is not finite"),
        (lambda state: state["model_state"].update({WEIGHT: torch.ones(1).expand(2**40)}), "for which it has no bytes"),
        (lambda state: state["model_state"].update({WEIGHT: torch.eye(3).to_sparse()}), "not a dense tensor"),
        (lambda state: state.update(optimizer_state=5), r"\.optimizer_state is 5, not an object"),
        (lambda state: state["optimizer_state"].update(param_groups=[]), "a list of 1 to inf items"),
        (lambda state: state["pivotnet"].update(step=-1), r"\.pivotnet\.step is -1, not a whole number from 0"),
        (lambda state: state["pivotnet"].pop("config"), r"\.pivotnet lacks 'config'"),
        (lambda state: state["pivotnet"]["rng"][0].update(torch=torch.zeros(3)), "no state of torch's generator"),
        (lambda state: state["pivotnet"]["config"]["model"].update(hidden=10**9), "not a whole number from 1 to 1024"),
    ],
)
def test_what_a_checkpoint_must_hold(saved, tmp_path, change, message):
    path = rewritten(saved, tmp_path / "bad.pth", change, False)
    with pytest.raises(PivotNetError, match=rf"checkpoint .*bad\.pth: .*{message}.*; take another one"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "part, change, message",
    [
        ("model", {"hidden": 33}, "configuration of no network"),
        ("model", {"backbone": "res50"}, "another map or network"),
        ("map", {"map_size": (40, 20)}, "another map or network"),
        ("model", {"new": 1}, "of another version"),
    ],
)
def test_a_configuration_of_no_network_is_one_line(saved, tmp_path, part, change, message):
    path = rewritten(saved, tmp_path / "bad.pth", lambda state: state["pivotnet"]["config"][part].update(change), True)
    with pytest.raises(PivotNetError, match=message):
        load_model(path, CPU)


def test_a_changed_bit_of_any_tensor_is_noticed(saved, tmp_path):
    """Upstream's files, and those of older versions, have no checksum: they load as before."""
    whole = saved.read_bytes()
    state = torch.load(saved, weights_only=True)
    for tensor in (state["model_state"][WEIGHT], state["optimizer_state"]["state"][0]["exp_avg"]):
        place = whole.index(tensor.numpy().tobytes()[:64]) + 9
        (tmp_path / "bad.pth").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(PivotNetError, match="bad.pth has changed since it was written"):
            read_checkpoint(tmp_path / "bad.pth")
    one = {"one": torch.ones(1, dtype=torch.int64).as_strided((1,), (0,))}  # an element of no stride
    assert read_checkpoint(rewritten(saved, tmp_path / "one.pth", lambda state: state["model_state"].update(one), True))
    older = rewritten(saved, tmp_path / "older.pth", lambda state: state["model_state"][WEIGHT].add_(1), False)
    assert not torch.equal(read_checkpoint(older)["model_state"][WEIGHT], state["model_state"][WEIGHT])


def test_resume_goes_on_from_the_newest_good_checkpoint(saved, tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    whole = saved.read_bytes()
    for step, content in ((12, whole), (13, whole[:1000]), (14, whole.replace(b"smoke", b"smoky"))):
        (folder / NAME.format(step)).write_bytes(content)
    run = Run(tmp_path, steps=20, resume="")
    path, _, (newest, newer) = find_resumed(run, CONFIG, Ranks())
    assert path is not None and path.name == "step_00000012.pth"
    assert "step_00000014.pth" in newest and "step_00000013.pth" in newer
    (folder / path.name).unlink()
    with pytest.raises(PivotNetError, match=r"step_00000014\.pth"):
        find_resumed(run, CONFIG, Ranks())
    rewritten(saved, folder / "step_00000015.pth", lambda state: state["pivotnet"].pop("seed"), True)
    with pytest.raises(PivotNetError, match="step_00000015.pth: lacks 'seed'; its run cannot be resumed"):
        find_resumed(run, CONFIG, Ranks())
    with pytest.raises(PivotNetError, match=r"step_00000013\.pth"):  # the one that was asked for, or none
        find_resumed(dataclasses.replace(run, resume=str(folder / "step_00000013.pth")), CONFIG, Ranks())


def test_a_full_disk_is_one_line_and_leaves_the_old_checkpoint(trained, tmp_path):
    """A limit on the size of files stands in for the disk: writing fails in the middle."""
    old = tmp_path / NAME.format(1)
    save_checkpoint(old, {"model_state": {"a": torch.ones(3)}})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, limits[1]))
    try:
        with pytest.raises(PivotNetError, match="^cannot write .*File too large.*$"):
            save_checkpoint(tmp_path / "step_2.pth", trained._state([devices.rng_state(CPU)]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == [old.name]
    assert torch.equal(read_checkpoint(old)["model_state"]["a"], torch.ones(3))


SMALL = {"image_size": (64, 96), "hidden": 32, "heads": 4, "bev_size": (16, 8), "mask_stride": 8}
MODEL = dataclasses.replace(CONFIG.model, **SMALL, dropout=0.1, drop_connect=0.2)
TINY = dataclasses.replace(CONFIG, name="tiny", model=MODEL, map=config.MapConfig(num_queries=(5, 5, 5)))


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """``pivotnet train`` of the tiny network on four samples, given the output folder and more options."""
    data = make_data(tmp_path_factory.mktemp("data") / "root", samples=4)
    common = ["train", "--preset", "tiny", "--data-root", str(data), "--device", "cpu", "--workers", "0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(config.PRESETS, "tiny", TINY)
        yield lambda output, options: cli.main([*common, "--output", str(output), *options.split()])


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory) -> Path:
    """A run of seven steps; not to be changed."""
    output = tmp_path_factory.mktemp("whole")
    assert train(output, "--steps 7 --save-every 2 --keep 2 --log-every 1") == 0
    return output


def kept(output: Path) -> list[str]:
    return [path.name for path in list_checkpoints(output / "checkpoints")]


def weights(output: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(list_checkpoints(output / "checkpoints")[-1])["model_state"]


def test_a_run_leaves_what_it_promises(whole):
    assert kept(whole) == [NAME.format(6), NAME.format(7)]
    records = list(read_records(whole / "steps.rank0.jsonl"))
    assert [record["step"] for record in records] == list(range(7))
    assert records[0]["seconds"] is None and all(record["seconds"] > 0 for record in records[1:])
    # warm-up: 7 // 4 = 1 step; steps 2, 4 and 6 begin with a checkpoint
    assert [record["step"] for record in records if record["counted"]] == [1, 3, 5]
    for record in records:
        assert math.isclose(sum(record["terms"].values()), record["loss"], rel_tol=1e-5)
    summary = read_summary(whole)
    times = sorted(record["seconds"] for record in records if record["counted"])
    assert summary["step_seconds"]["median"] == times[1] and summary["step_seconds"]["count"] == 3
    assert summary["fps"] == pytest.approx(1 / times[1])
    assert (summary["steps"], summary["ranks"], summary["global_batch"], summary["finished"]) == (7, 1, 1, True)
    assert summary["final_loss"] == records[-1]["loss"] and summary["checkpoint"] == f"checkpoints/{NAME.format(7)}"
    assert summary["wall_seconds"] > summary["train_seconds"] > sum(times)
    assert (whole / "train.log").read_text().count("loss") == 7
    assert list((whole / "tensorboard").glob("events.*"))
    assert json.loads((whole / "config.json").read_text())["options"]["keep"] == 2


def test_resumed_equals_uninterrupted(train, whole, tmp_path, monkeypatch):
    """Dropout and drop connect are on: the random state must come back too."""
    original = loop.Trainer.train_step

    def killed(self, *arguments):
        if self.step == 5:
            raise KeyboardInterrupt
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "train_step", killed)
        assert train(tmp_path, "--steps 7 --save-every 2") == 130
    (tmp_path / "checkpoints" / "best.pth").write_text("the user's own")
    assert train(tmp_path, "--steps 7 --save-every 2 --keep 1 --resume") == 0
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {NAME.format(7), "best.pth"}
    assert losses(tmp_path) == losses(whole)
    torch.testing.assert_close(weights(tmp_path), weights(whole), rtol=0, atol=0)


def test_seed_decides_the_run(train, whole, tmp_path):
    for name in ("a", "b"):
        assert train(tmp_path / name, "--steps 2 --seed 1 --deterministic") == 0
    torch.use_deterministic_algorithms(False)
    assert losses(tmp_path / "a") == losses(tmp_path / "b") != losses(whole)[:2]


def test_nan_loss_stops_before_a_checkpoint(train, tmp_path, capsys):
    assert train(tmp_path, "--steps 9 --lr 1e6 --save-every 3") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "error: the loss of step 1 is nan" in line and "no checkpoint was written" in line
    assert not (tmp_path / "checkpoints").exists() and len(losses(tmp_path)) == 1


def test_a_profile_is_a_trace_that_perfetto_opens(train, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "PROFILE_AFTER", 1)
    assert train(tmp_path, "--steps 3 --profile 1") == 0
    (trace,) = (tmp_path / "profile").glob("*.pt.trace.json")
    assert any(event["name"] == "aten::addmm" for event in json.loads(trace.read_text())["traceEvents"])


def test_sigterm_saves_and_leaves(train, tmp_path):
    def ask():
        wait_for(lambda: len(losses(tmp_path)) >= 2)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=ask)
    thread.start()
    assert train(tmp_path, "--steps 1000") == 143
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before
    steps = len(losses(tmp_path))
    assert kept(tmp_path) == [NAME.format(steps)] and steps < 100
    assert not read_summary(tmp_path)["finished"] and read_summary(tmp_path)["steps"] == steps
    assert train(tmp_path, f"--steps {steps + 1} --resume") == 0


def test_a_run_killed_in_its_evaluation_goes_on_there(train, whole, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(whole, output)
    assert train(output, "--steps 7 --resume --evaluate val") == 0
    summary = read_summary(output)
    assert summary["evaluation"]["val"]["samples"] == 4 and summary["finished"]
    for key in ("final_loss", "steps", "checkpoint"):
        assert summary[key] == read_summary(whole)[key]
    assert losses(output) == losses(whole)


def test_batch_weights_to_start_from_and_evaluation(train, tmp_path, capsys):
    first, second = tmp_path / "a", tmp_path / "b"
    assert train(first, "--steps 1 --lr 0 --amp bf16 --resume --evaluate val,train") == 0
    assert "nothing to resume" in capsys.readouterr().out
    assert set(read_summary(first)["evaluation"]) == {"val", "train"}
    assert (first / "checkpoints" / "results_step_00000001" / "ap_val.json").exists()
    start = first / "checkpoints" / NAME.format(1)
    assert train(second, f"--steps 1 --batch-size 3 --lr 0 --seed 7 --pretrained {start}") == 0
    before = weights(first)
    for name, value in weights(second).items():
        if "running" not in name and "tracked" not in name:
            assert torch.equal(value, before[name]), name


def test_bad_options_are_one_line_before_anything_is_written(train, tmp_path, capsys):
    for options, message in (
        ("--resume nowhere.pth", "nowhere.pth does not exist"),
        ("--graph", "a CPU has no graphs"),
        ("--split night", "split 'night' is not annotated"),
        ("--evaluate val,night", "split 'night' is not annotated"),
    ):
        assert message in fails(capsys, tmp_path / "run", options, run=lambda words: train(*words))
        assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten_or_mixed(train, whole, capsys):
    for options, message in (
        ("--steps 7", "holds a run already"),
        ("--steps 7 --resume", "has all of the 7 steps"),
        ("--steps 8 --resume --seed 1", "was trained with seed = 0"),
        ("--steps 8 --resume --batch-size 2", "samples a step = 1"),
        ("--steps 8 --resume --preset smoke", "is of preset tiny"),
    ):
        assert train(whole, options) == 2 and message in capsys.readouterr().err


def test_a_second_run_leaves_the_files_of_the_first(train, tmp_path, capsys):
    (tmp_path / ".unfinished.tmp").touch()
    with lock_output(tmp_path):
        assert train(tmp_path, "--steps 1") == 2
    assert f"another run is writing into {tmp_path}: wait for it" in capsys.readouterr().err
    assert os.listdir(tmp_path) == [".unfinished.tmp"]
