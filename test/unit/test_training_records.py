"""The clock and the records, on invented times."""

from __future__ import annotations

from types import SimpleNamespace

from pivotnet.training import records as recording
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
