"""The clock and the records, on invented times."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pivotnet.training import records as recording
from pivotnet.training.records import StepRecords, StepTimer, counted_times, read_records, warmup_steps


def test_times_are_from_end_to_end(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr(recording, "time", clock)
    timer = StepTimer(warmup=2)

    def step(wait: float) -> dict:
        timer.request()
        clock.now += wait
        timer.loaded()
        clock.now += 1.0
        return timer.end()

    assert step(5.0) == {"seconds": None, "data_wait": 5.0, "counted": False}
    assert step(0.5) == {"seconds": 1.5, "data_wait": 0.5, "counted": False}  # warm-up
    clock.now += 0.25  # what the loop does between steps belongs to the next one
    assert step(0.5) == {"seconds": 1.75, "data_wait": 0.5, "counted": True}
    clock.now += 30
    timer.disturb()
    assert not step(0.5)["counted"]
    assert step(0.5) == {"seconds": 1.5, "data_wait": 0.5, "counted": True}


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
    found = list(read_records(path))
    assert [record["step"] for record in found] == [0, 1, 2, 3, 4] and found[0]["loss"] == 1 / 3  # exact
    assert counted_times(found) == [(3.0, 0.5), (4.0, 0.5)]

    resumed = StepRecords(tmp_path, 1, 3)
    resumed.add({"step": 3})
    resumed.close()
    assert [record["step"] for record in read_records(path)] == [0, 1, 2, 3]
    StepRecords(tmp_path, 1, 0).close()  # a new run
    assert list(read_records(path)) == []
