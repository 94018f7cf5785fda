"""Environment, launcher and callbacks of the patched tree."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support.fake_run import EVALUATION
from torch import nn

from pivotnet.errors import PivotNetError
from pivotnet.training.summary import read_summary
from pivotnet.upstream import callbacks, environ, launch
from pivotnet.upstream.environ import adapt_optimizer

VARIABLES = ("CARDS", "WORLD_SIZE", "RANK", "LOCAL_RANK", "NNODES", "MASTER_ADDR", "MASTER_PORT")
CPU = torch.device("cpu")
LINE, NO_LINE = ({"targets": {"labels": torch.full((1, 4, 3), number)}} for number in (0, -1))  # batches of BeMapNet


@pytest.fixture(autouse=True)
def plain(monkeypatch) -> None:
    for name in (*VARIABLES, launch.DEVICE, callbacks.FLAG, callbacks.STEPS, callbacks.OUTPUT):
        monkeypatch.delenv(name, raising=False)


def variables(monkeypatch, **values: object) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))


def machine(monkeypatch, kind: str) -> None:
    """With four cards, or none and a CPU."""
    monkeypatch.setattr(launch.devices, "select_device", lambda *a, **k: SimpleNamespace(type=kind))
    monkeypatch.setattr(launch.devices, "device_count", lambda kind: 4)


@pytest.mark.parametrize(("kind", "listed", "cards"), [("cpu", "0-7", 1), ("cuda", None, 4), ("cuda", "0,2-9", 3)])
def test_cards_that_do_not_exist_are_left_out_and_cards_overrules(monkeypatch, kind, listed, cards):
    machine(monkeypatch, kind)
    assert launch.count_cards(launch.parse_cards(listed)) == cards
    monkeypatch.setenv("CARDS", "3")
    assert launch.count_cards(launch.parse_cards(listed)) == 3


@pytest.mark.parametrize(
    ("given", "listed", "message"),
    [
        ({}, "0-99999999999", "a card of -d .* give a whole number from 0 to 1024"),
        ({launch.DEVICE: "cpu"}, "4,5", r"none of the cards \[4, 5\] exists"),
        ({launch.DEVICE: "abacus"}, "", "unknown device 'abacus'"),
    ],
)
def test_cards_that_are_wrong(monkeypatch, given, listed, message):
    variables(monkeypatch, **given)
    with pytest.raises(PivotNetError, match=message):
        launch.count_cards(launch.parse_cards(listed))


@pytest.mark.parametrize("options", [["-d", "0-1", "-b", "1"], ["-d0,2"], ["--devices=1-2", "--ckpt", "x"]])
def test_a_config_that_is_started_plainly_starts_torchrun_with_its_options(monkeypatch, tmp_path, capsys, options):
    monkeypatch.delenv(launch.WITHOUT_WEIGHTS, raising=False)
    machine(monkeypatch, "cuda")
    started: list[list[str]] = []

    def replace(path: str, words: list[str], environment: dict[str, str]) -> None:
        started.append(words)
        assert (environment.get(launch.WITHOUT_WEIGHTS) == "none") == ("--ckpt" in words)
        raise SystemExit

    monkeypatch.setattr(launch.os, "execve", replace)
    (tmp_path / "x.py").touch()
    for name in ("x", "y"):
        monkeypatch.setattr(environ.sys, "argv", [str(tmp_path / f"{name}.py"), *options])
        with pytest.raises(SystemExit):
            environ.RlaunchReplicaEnv(1, "0-7")
    assert capsys.readouterr().err == f"error: there is no configuration {tmp_path / 'y.py'}: choose one of x\n"
    (words,) = started
    assert "--nproc-per-node=2" in words and words[-1 - len(options) :] == [str(tmp_path / "x.py"), *options]


def test_a_rank_takes_its_card_of_the_listed_ones_as_far_as_they_go(monkeypatch):
    chosen = []
    monkeypatch.setattr(environ.devices, "select_device", lambda name, local_rank: chosen.append(local_rank) or CPU)
    variables(monkeypatch, WORLD_SIZE=6, RANK=5, LOCAL_RANK=1, LOCAL_WORLD_SIZE=3)
    env = environ.RlaunchReplicaEnv(1, "4-7")
    assert (env.global_rank(), env.local_rank(), env.nr_gpus) == (5, 1, 1)
    assert env.rate_devices() == 4
    assert environ.collect_env_info().endswith(f"device {environ.devices.device_name(CPU)}")
    monkeypatch.setenv("LOCAL_RANK", "9")
    environ.RlaunchReplicaEnv(0, "4-7")
    assert chosen == [5, 9]


class Trainer:
    """What callbacks see of upstream's trainer."""

    def __init__(self, callbacks: list[Any] | None = None) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.callbacks = callbacks or []
        self.epoch, self.global_step = 2, 30
        groups = [{"params": list(self.model.parameters()), "lr": 1e-3}, {"params": [], "lr": 1e-3}]
        self.optimizer = adapt_optimizer(torch.optim.AdamW(groups), self.model)
        self.train_dataloader = [None] * 5
        conf = {"nusc_root": "data/nuscenes", "anno_root": "a", "map_size": 1}
        self.exp = SimpleNamespace(
            **{"exp_name": "x", "batch_size_per_device": 1, "seed": 0, "max_epoch": 3, "train_dataset_size": 5},
            print_interval=2,
            exp_config=SimpleNamespace(map_conf=conf),
        )

    def train(self) -> torch.Tensor:
        loss = self.model(torch.randn(2, 3, 4, 4)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss


def loaded(path: Path, **options: bool) -> Trainer:
    other = Trainer()
    callbacks.CheckPointLoader(path, **options).load_checkpoint(other)
    return other


def test_checkpoints_round_trip(tmp_path):
    trainer = Trainer()
    trainer.train()
    saver = callbacks.CheckPointSaver(tmp_path, num_keep_latest=1)
    for epoch in (0, 2):
        saver.after_epoch(trainer, epoch)
    (path,) = tmp_path.iterdir()
    assert path.name == "checkpoint_epoch_2.pth"
    state = torch.load(path, weights_only=True)
    assert (state["epoch"], state["global_step"], state["callback"]) == (2, 30, {})
    other = loaded(path)
    assert (other.epoch, other.global_step) == (3, 30)
    torch.testing.assert_close(other.model.state_dict(), trainer.model.state_dict())
    for made in (trainer, other):
        torch.manual_seed(5)
        made.train()
    torch.testing.assert_close(other.model.state_dict(), trainer.model.state_dict())


def test_a_checkpoint_of_upstream_loads(tmp_path):
    trainer = Trainer()
    plain = torch.optim.AdamW([{"params": list(trainer.model.parameters()), "wd": 1e-4}, {"params": [], "wd": 1e-4}])
    trainer.model(torch.randn(2, 3, 4, 4)).sum().backward()
    plain.step()
    weights = {f"module.{name}": tensor for name, tensor in trainer.model.state_dict().items()}
    content = {"epoch": 0, "it": 7, "global_step": 7, "model_state": weights, "optimizer_state": plain.state_dict()}
    torch.save({**content, "callback": {}}, tmp_path / "up.pth")
    other = loaded(tmp_path / "up.pth")
    assert other.global_step == 7
    moments = (each.state_dict()["state"][0]["exp_avg"] for each in (other.optimizer, plain))
    torch.testing.assert_close(*moments)


def test_a_checkpoint_of_another_network_is_refused_unless_only_weights_are_wanted(tmp_path, capsys):
    weights = {"0.weight": Trainer().model.state_dict()["0.weight"] + 1}
    torch.save({"model_state": weights}, tmp_path / "x.pth")
    with pytest.raises(PivotNetError, match=r"has 1 of the network's 7 tensors, not 0.bias"):
        loaded(tmp_path / "x.pth")
    other = loaded(tmp_path / "x.pth", weight_only=True)
    torch.testing.assert_close(other.model.state_dict()["0.weight"], weights["0.weight"])
    assert "warning: checkpoint" in capsys.readouterr().err


def test_gradients_are_clipped_and_clearml_is_refused():
    trainer = Trainer()
    trainer.train()
    callbacks.ClipGrad(1e-3).before_optimize(trainer)
    assert torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm() <= 1.001e-3
    with pytest.raises(PivotNetError, match="--no-clearml"):
        callbacks.ClearMLCallback()


def test_wrong_numbers_of_steps(monkeypatch):
    assert callbacks.requested_steps() is None
    monkeypatch.setenv(callbacks.FLAG, "1")
    assert callbacks.requested_steps() == 1500
    monkeypatch.setenv(callbacks.STEPS, "1")
    with pytest.raises(PivotNetError, match="PIVOTNET_PERFORMANCE_STEPS"):
        callbacks.requested_steps()


def test_a_performance_run_stops_and_reports(tmp_path, monkeypatch, capsys):
    """Through the environment, in a group of one process: DDP, six steps, log, curves, summary, Final result."""
    variables(monkeypatch, **{callbacks.FLAG: 1, callbacks.STEPS: 6}, MASTER_ADDR="127.0.0.1", MASTER_PORT=0)
    variables(monkeypatch, WORLD_SIZE=1, RANK=0, LOCAL_RANK=0)
    monkeypatch.setattr(environ.devices, "select_device", lambda *a, **k: CPU)
    env = environ.RlaunchReplicaEnv(sync_bn=1)
    with environ.ShareFSUUIDNameServer(True) as server:
        env.set_master_uri(server)
        env.setup_nccl()
        env.init_dist()
    try:
        saver = callbacks.CheckPointSaver(tmp_path / "dump_model")
        progress = callbacks.ProgressBar(logger=None)
        trainer = Trainer([env, progress, callbacks.TextMonitor(interval=2), saver])
        monkeypatch.setenv("DATA_ROOT", "/elsewhere")
        env.setup(trainer)
        wanted = {"nusc_root": "/elsewhere", "anno_root": "/elsewhere/customer/pivot-bezier", "map_size": 1}
        assert trainer.exp.exp_config.map_conf == wanted
        env.after_init(trainer)
        assert trainer.model.module[1].weight.requires_grad
        progress.before_train(trainer)
        with pytest.raises(SystemExit) as stop:
            for step in range(10):
                progress.before_step(trainer, step, LINE)
                progress.after_step(trainer, step, None, loss=trainer.train().detach(), extra={"a": torch.tensor(2.0)})
        assert stop.value.code == 0 and step == 5
    finally:
        env.cleanup()
    assert not dist.is_initialized()
    summary = read_summary(tmp_path)
    assert (summary["steps"], summary["start_step"], summary["step_seconds"]["count"]) == (36, 30, 5)
    assert summary["final_terms"] == {"a": 2.0} and summary["preset"] == "x"
    records = [json.loads(line) for line in (tmp_path / "steps.rank0.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(30, 36))
    assert [line.split()[3] for line in (tmp_path / "train.log").open()] == ["32/36", "34/36", "36/36"]
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert "Final Performance sec/iter" in capsys.readouterr().out


@pytest.fixture
def progress(tmp_path, monkeypatch) -> callbacks.ProgressBar:
    """Of an ordinary run that begins."""
    monkeypatch.setenv(callbacks.OUTPUT, str(tmp_path))
    progress = callbacks.ProgressBar()
    progress.before_train(Trainer([callbacks.CheckPointSaver("not used")]))
    assert (tmp_path / "checkpoints").is_dir()
    return progress


def test_a_resumed_performance_run_makes_the_steps_that_are_left(tmp_path, monkeypatch):
    variables(monkeypatch, **{callbacks.FLAG: 1, callbacks.STEPS: 32, callbacks.OUTPUT: tmp_path})
    progress, trainer = callbacks.ProgressBar(), Trainer([callbacks.CheckPointSaver(tmp_path)])
    progress.before_train(trainer)
    assert progress.steps == 2
    trainer.global_step = 32
    with pytest.raises(PivotNetError, match="has made its 32 steps already"):
        callbacks.ProgressBar().before_train(trainer)


def test_an_ordinary_run_leaves_its_summary_and_takes_up_its_evaluation(tmp_path, progress, capsys):
    trainer = Trainer()
    for step in range(5):
        progress.before_step(trainer, step, NO_LINE if step < 3 else LINE)
        progress.after_step(trainer, step, None, torch.tensor(float(step)), {"a": torch.tensor(1.0)})
        if step == 2:
            progress.after_epoch(trainer, 2)
    progress.after_epoch(trainer, 3)
    progress.after_train(trainer)
    assert capsys.readouterr().out.count("warning: no sample of this epoch has a line") == 1
    callbacks.add_evaluation("val", EVALUATION)
    summary = read_summary(tmp_path)
    # of five steps one warms up, one comes after a checkpoint
    assert summary["step_seconds"]["count"] == 3 and summary["final_loss"] == 4.0
    assert summary["evaluation"] == {"val": EVALUATION}


def test_a_loss_that_is_not_finite_stops(tmp_path, progress):
    with pytest.raises(PivotNetError, match=r"the loss of step 31 is nan \(terms: a\): .* take an earlier checkpoint"):
        for value in (1.0, *[float("nan")] * (callbacks.READ_EVERY - 1)):
            progress.after_step(Trainer(), 0, None, torch.tensor(value), {"a": torch.tensor(value)})
    assert len((tmp_path / "steps.rank0.jsonl").read_text().splitlines()) == 1
