"""The benchmark tool: turns of two sides, ratios, counts, and its command line."""

from __future__ import annotations

import sys
import time
import types
from functools import partial
from pathlib import Path

import bench
import pytest
import torch
from benchmarks.train_tasks import attention_as_one_launch
from benchmarks.turns import TOTAL, Clock, Measurement, Task, ratio, take_turns
from support.diary_task import diary
from torch import Tensor

from pivotnet.audit.operators import OperatorCounter
from pivotnet.errors import PivotNetError


def test_sides_take_turns_and_are_measured(tmp_path: Path) -> None:
    path = tmp_path / "diary"
    sides = {"ours": partial(diary, path, "a"), "upstream": partial(diary, path, "b", sleep=0.3, mebibytes=200)}
    ours, other = take_turns(sides, threads=1, rounds=2, turn_seconds=0.0, count=True)
    assert path.read_text().startswith("ababab")
    assert list(ours.wall) == ["work", "sleep", TOTAL]
    assert all(len(values) == 2 for values in (*ours.wall.values(), *other.cpu.values()))
    assert min(other.wall["sleep"]) >= 0.3
    assert min(ours.cpu["work"]) >= 0.05
    assert other.peak_bytes - ours.peak_bytes > 150 * 2**20
    assert ours.counts == {"launches": {"sleep": 2}, "flops": 0}


@pytest.mark.parametrize(("fail", "message"), [("made", "ours failed: cannot be made: try"), ("run", "in the run")])
def test_a_failing_side_is_reported(tmp_path: Path, fail: str, message: str) -> None:
    with pytest.raises(PivotNetError, match=message):
        take_turns({"ours": partial(diary, tmp_path / "diary", "a", fail=fail)}, threads=1, rounds=1, warmup=0)


def test_a_turn_is_the_median_of_its_runs_and_one_run_at_least() -> None:
    lengths = [0.2]  # the first run takes long, as the first one after another's turn does
    runs: list[float] = []

    def nap() -> None:
        runs.append(lengths.pop() if lengths else 0.02)
        time.sleep(runs[-1])

    task = Task(Clock(), nap)
    assert task.take_turn(0.0)["input"][0] >= 0.2
    assert len(runs) == 1
    lengths.append(0.2)
    assert 0.02 <= task.take_turn(0.5)["input"][0] < 0.2
    assert len(runs) > 3


def test_phases_are_summed_and_ratios_taken_round_by_round() -> None:
    clock = Clock()
    clock.begin("a")
    for phase in ("b", "a", ""):
        time.sleep(0.02 if phase != "a" else 0)
        clock.enter(phase)
    assert clock.seconds["a"][0] >= 0.04 > clock.seconds["b"][0]
    one = Measurement("one")
    one.add({"a": (1.0, 0.5), "b": (2.0, 0.25)})
    assert (one.wall[TOTAL], one.cpu[TOTAL]) == ([3.0], [0.75])
    assert ratio([1.0, 2.0, 9.0], [2.0, 8.0, 10.0]) == (0.5, 0.25, 0.9)
    assert ratio([1.0], [0.0]) is None


def test_upstreams_attention_counts_once_each_way_and_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class MSDeformAttnFunction:
        @staticmethod
        def apply(value: Tensor, shapes: int, starts: None, locations: Tensor, weights: Tensor, step: int) -> Tensor:
            for _ in range(shapes * step):
                value = (value * locations).sin() + weights
            return value

    module = types.SimpleNamespace(MSDeformAttnFunction=MSDeformAttnFunction)
    monkeypatch.setitem(sys.modules, "mapmaster.models.bev_decoder.deform_transformer.ops.functions", module)

    def gradients() -> list[Tensor]:
        torch.manual_seed(0)
        value, locations, weights = leaves = torch.randn(3, 5, requires_grad=True).unbind()
        return list(
            torch.autograd.grad(MSDeformAttnFunction.apply(value, 2, None, locations, weights, 2).sum(), leaves)
        )

    expected, counter = gradients(), OperatorCounter()
    with attention_as_one_launch(counter), counter:
        found = gradients()
    torch.testing.assert_close(found, expected)
    names = {name: count for (_, name), count in counter.audit.operators.items() if name.startswith("deformable")}
    assert names == {"deformable_attention": 1, "deformable_attention_backward": 1}
    assert not {"sin", "cos"} & {name for _, name in counter.audit.operators}
    torch.testing.assert_close(gradients(), expected)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bench.py", *arguments])
    return bench.main()


def test_a_benchmark_from_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "criterion", "--rounds", "1", "--warmup", "0") == 0
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("criterion, targets typical, batch 1", "ours: 1 rounds", "load average"))


@pytest.mark.full
def test_steps_of_several_sizes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--preset", "smoke", "--batch-sizes", "1", "2", "--rounds", "1", "--warmup", "0"]
    assert call(monkeypatch, "step", *options) == 0
    printed = capsys.readouterr().out
    assert "point head forward" in printed and "ours by targets and batch size" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("step --against upstream --batch-sizes 2 4", "--batch-sizes [2, 4]: upstream knows 1 only"),
        ("step --against upstream --preset smoke", "--preset smoke: upstream has swint, res50, effb0"),
        ("step --rounds=0", "argument --rounds: the value is 0: give a whole number from 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    options: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = call(monkeypatch, *options.split())
    except SystemExit as stop:
        status = stop.code
    assert status == 2 and message in capsys.readouterr().err
