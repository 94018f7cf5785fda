"""What rank 0 shows, and what every rank records, on invented times."""

import contextlib
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from pivotnet.training import monitor as monitors
from pivotnet.training import records as recording
from pivotnet.training.monitor import Monitor
from pivotnet.training.records import StepRecords, counted_times, read_records, warmup_steps


def test_times_are_from_end_to_end(monkeypatch, tmp_path):
    clock = SimpleNamespace(now=100.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr(recording, "time", clock)
    records = StepRecords(tmp_path, 0, 7, steps=8)

    def step(wait: float) -> tuple:
        records.request()
        clock.now += wait
        records.loaded()
        clock.now += 1.0
        record = records.end(lr=0.5)
        assert record["lr"] == 0.5
        return tuple(record[key] for key in ("step", "seconds", "data_wait", "counted"))

    assert step(5.0) == (7, None, 5.0, False)
    assert step(0.5) == (8, 1.5, 0.5, False)  # warm-up
    clock.now += 0.25  # what the loop does between steps belongs to the next one
    assert step(0.5) == (9, 1.75, 0.5, True)
    clock.now += 30
    records.disturb()
    assert step(0.5) == (10, 31.5, 0.5, False)
    assert step(0.5) == (11, 1.5, 0.5, True)


def test_warm_up_is_a_quarter_of_a_short_run():
    assert [warmup_steps(steps) for steps in (1, 3, 4, 40, 80, 1500)] == [0, 0, 1, 10, 20, 20]


def test_records_survive_a_kill_and_a_resume(tmp_path):
    records = StepRecords(tmp_path, 1, 0, 5)
    for step in range(5):
        record = {"step": step, "seconds": float(step), "data_wait": 0.5, "counted": step > 2, "lr": 0.1}
        records.add(record, 1 / 3, {"a": 1.0})
    path = tmp_path / "steps.rank1.jsonl"
    assert len(list(read_records(path))) == 5  # without a close
    with open(path, "a") as stream:
        stream.write('{"step": 5, "sec')  # cut off
    found = list(read_records(path))
    assert [record["step"] for record in found] == [0, 1, 2, 3, 4]
    assert (found[0]["loss"], found[0]["terms"]) == (1 / 3, {"a": 1.0})  # exact
    assert counted_times(found) == [(3.0, 0.5), (4.0, 0.5)]

    resumed = StepRecords(tmp_path, 1, 3, 2)
    resumed.add(resumed.end(1.0), 0.0, {})
    resumed.close()
    assert [record["step"] for record in read_records(path)] == [0, 1, 2, 3]
    StepRecords(tmp_path, 1, 0, 5).close()  # a new run
    assert list(read_records(path)) == []


def show(folder: Path, steps: range, said: str = "", **changes: Any) -> None:
    """A monitor through some steps of half a second, of which the process's first has no time."""
    options = {"total_steps": 5, "start_step": steps.start, "log_every": 2, "enabled": True, **changes}
    with contextlib.closing(Monitor(folder, **options)) as monitor:
        monitor.say(said)
        for step in steps:
            record = {"step": step, "seconds": None if step == steps.start else 0.5, "data_wait": 0.1, "lr": 1e-3}
            record.update(loss=10.0 - step, terms={"pts_loss": 4.0 - step, "sem_msk_loss": 6.0})
            monitor.step(record, 3 * 2**30)


def curves(folder: Path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    return accumulator.EventAccumulator(str(folder / "tensorboard")).Reload()


def test_lines_and_curves(tmp_path, capsys):
    show(tmp_path, range(5), "hello [world]")
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert lines[0].endswith("hello [world]")
    assert [line.split()[3] for line in lines[1:]] == ["2/5", "4/5", "5/5"]
    assert "loss 6.0000  lr 0.001  0.500 s/step  wait 20%  3.00 GiB" in lines[-1]
    out = capsys.readouterr().out
    assert "hello [world]" in out and "step 4/5" in out
    events = curves(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(2, 9.0), (4, 7.0), (5, 6.0)]
    assert {"train/pts_loss", "meta/learning_rate", "meta/step_seconds"} <= set(events.Tags()["scalars"])


def test_curves_of_a_resumed_run_have_no_old_points_and_other_ranks_none(tmp_path, capsys):
    show(tmp_path, range(2), "hello", enabled=False)
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""
    show(tmp_path, range(4), log_every=1)  # killed after step 4
    show(tmp_path, range(2, 5), log_every=1)  # resumed from the checkpoint of step 2
    assert [event.step for event in curves(tmp_path).Scalars("train/loss")] == [1, 2, 3, 4, 5]


def test_a_terminal_gets_one_live_line(tmp_path, monkeypatch):
    screen = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(monitors, "Console", lambda **options: screen)
    show(tmp_path, range(5))
    shown = screen.file.getvalue()
    assert "5/5" in shown and "wait 20%  3.00 GiB" in shown  # all of it in 80 columns
    assert "step 4/5" not in shown  # lines go to the log file only
    assert "step 4/5" in (tmp_path / "train.log").read_text()
