"""The progress line, the log and the curves of rank 0."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pivotnet.training import monitor as monitors
from pivotnet.training.monitor import Monitor


def record(step: int, seconds: float | None = 0.5) -> dict:
    return {
        "step": step,
        "seconds": seconds,
        "data_wait": 0.1,
        "lr": 1e-3,
        "loss": 10.0 - step,
        "terms": {"pts_loss": 4.0 - step, "sem_msk_loss": 6.0},
    }


def open_monitor(folder, **options) -> Monitor:
    return Monitor(folder, **{"total_steps": 5, "start_step": 0, "log_every": 2, "enabled": True, **options})


def test_lines_and_curves(tmp_path, capsys):
    monitor = open_monitor(tmp_path)
    monitor.say("hello [world]")
    for step in range(5):
        monitor.step(record(step, None if step == 0 else 0.5), 3 * 2**30)
    monitor.close()
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert lines[0].endswith("hello [world]")
    assert [line.split()[3] for line in lines[1:]] == ["2/5", "4/5", "5/5"]
    assert "loss 6.0000  lr 0.001  0.500 s/step  wait 20%  3.00 GiB" in lines[-1]
    out = capsys.readouterr().out
    assert "hello [world]" in out and "step 4/5" in out

    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(2, 9.0), (4, 7.0), (5, 6.0)]
    assert {"train/pts_loss", "meta/learning_rate", "meta/step_seconds"} <= set(events.Tags()["scalars"])


def test_curves_of_a_resumed_run_have_no_old_points(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for start, stop in ((0, 4), (2, 5)):  # killed after step 4, resumed from the checkpoint of step 2
        monitor = open_monitor(tmp_path, start_step=start, log_every=1)
        for step in range(start, stop):
            monitor.step(record(step), 0)
        monitor.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5]


def test_a_terminal_gets_one_live_line(tmp_path, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(
        monitors, "Console", lambda **options: Console(file=screen, force_terminal=True, width=80, **options)
    )
    monitor = open_monitor(tmp_path)
    for step in range(5):
        monitor.step(record(step), 2**30)
    monitor.close()
    assert "5/5" in screen.getvalue() and "wait 20%  1.00 GiB" in screen.getvalue()  # all of it in 80 columns
    assert "step 4/5" not in screen.getvalue()  # lines go to the log file only
    assert "step 4/5" in (tmp_path / "train.log").read_text()


def test_other_ranks_are_silent(tmp_path, capsys):
    monitor = open_monitor(tmp_path, enabled=False)
    monitor.say("hello")
    monitor.step(record(1), 0)
    monitor.close()
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""
