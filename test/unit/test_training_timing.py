"""The clock, the records and the summary, on invented times."""

from __future__ import annotations

import json

import pytest

from pivotnet.training import timing
from pivotnet.training.timing import StepRecords, StepTimer, counted_times, read_records, summarise, warmup_steps


@pytest.fixture()
def clock(monkeypatch):
    """A clock that is set by hand."""

    class Clock:
        now = 100.0

        def perf_counter(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def run_step(timer: StepTimer, clock, wait: float, work: float) -> dict:
    timer.request()
    clock.now += wait
    timer.loaded()
    clock.now += work
    return timer.end()


def test_times_are_from_end_to_end(clock):
    timer = StepTimer(warmup=1)
    first = run_step(timer, clock, 5.0, 1.0)
    assert first == {"seconds": None, "data_wait": 5.0, "counted": False}
    clock.now += 0.25  # what the loop does between steps belongs to the next one
    second = run_step(timer, clock, 0.5, 1.0)
    assert second == {"seconds": 1.75, "data_wait": 0.5, "counted": True}
    clock.now += 30
    timer.disturb()
    assert not run_step(timer, clock, 0.5, 1.0)["counted"]
    assert run_step(timer, clock, 0.5, 1.0) == {"seconds": 1.5, "data_wait": 0.5, "counted": True}


def test_warm_up_is_not_counted(clock):
    timer = StepTimer(warmup=3)
    assert [run_step(timer, clock, 0, 1)["counted"] for _ in range(5)] == [False, False, False, True, True]


@pytest.mark.parametrize("steps, warmup", [(1, 0), (3, 0), (4, 1), (40, 10), (80, 20), (1500, 20)])
def test_warm_up_is_a_quarter_of_a_short_run(steps, warmup):
    assert warmup_steps(steps) == warmup


def test_records_survive_a_kill_and_a_resume(tmp_path):
    records = StepRecords(tmp_path, 1, 0)
    for step in range(5):
        records.add({"step": step, "seconds": float(step), "data_wait": 0.5, "counted": step > 2, "loss": 1 / 3})
    path = tmp_path / "steps.rank1.jsonl"
    assert len(list(read_records(path))) == 5  # without a close
    with open(path, "a") as stream:
        stream.write('{"step": 5, "sec')  # cut off
    assert [record["step"] for record in read_records(path)] == [0, 1, 2, 3, 4]
    assert counted_times(path) == ([3.0, 4.0], [0.5, 0.5])
    assert next(read_records(path))["loss"] == 1 / 3  # exact

    resumed = StepRecords(tmp_path, 1, 3)
    resumed.add({"step": 3})
    resumed.close()
    assert [record["step"] for record in read_records(path)] == [0, 1, 2, 3]
    StepRecords(tmp_path, 1, 0).close()  # a new run
    assert list(read_records(path)) == []


def test_summary_is_the_median_over_all(tmp_path):
    summary = summarise([1.0, 2.0, 9.0], [0.5, 0.5, 2.0], global_batch=8, warmup=20)
    assert summary["step_seconds"] == {"median": 2.0, "p90": pytest.approx(7.6), "count": 3, "warmup": 20}
    assert summary["fps"] == 4.0 and summary["data_wait_share"] == 0.25
    assert summarise([], [], 8, 20) == {"step_seconds": None, "fps": None, "data_wait_share": None}
    path = timing.write_summary(tmp_path, summary)
    assert json.loads(path.read_text())["fps"] == 4.0
