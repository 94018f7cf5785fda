"""What ranks record and show, on invented times; the Final result, the comparison of runs, and the curves."""

import contextlib
import io
import platform
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console
from support.commands import fails
from support.fake_run import EVALUATION, make_run

from pivotnet import cli, comparison
from pivotnet.comparison import read_run, run_column
from pivotnet.training import records as recording
from pivotnet.training.records import Monitor, StepRecords, counted_times, read_records, records_path, warmup_steps
from pivotnet.training.summary import TITLE, earlier_seconds, final_lines


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
    monkeypatch.setattr(recording, "Console", lambda **options: screen)
    show(tmp_path, range(5))
    shown = screen.file.getvalue()
    assert "5/5" in shown and "wait 20%  3.00 GiB" in shown  # all of it in 80 columns
    assert "step 4/5" not in shown  # lines go to the log file only
    assert "step 4/5" in (tmp_path / "train.log").read_text()


RECORD = '{"step": 0, "seconds": null, "data_wait": 0, "counted": true, "lr": 1, "loss": 1.5, "terms": {}}\n'


def test_every_number_of_the_final_result_comes_from_the_records_and_the_evaluation(tmp_path, capsys):
    run, logs = tmp_path / "run", tmp_path / "all" / "logs"
    train = {"average": {"percent": {"mAP_hard": None, "mAP_easy": 80}}}
    make_run(run, evaluation={"val": EVALUATION, "train": train})
    assert cli.main(["report", str(run), "--final", "full", "--log-folder", str(logs)]) == 0
    lines = capsys.readouterr().out.split(TITLE, 1)[1].strip()
    records = (record for rank in range(2) for record in read_records(records_path(run, rank)))
    seconds, waits = zip(*counted_times(records))
    median = np.median(seconds)
    assert lines.splitlines() == [
        *("Network: PivotNet", "RankSize: 2", "BatchSize: 1", f"DeviceType: {platform.machine()}"),
        *("CaseName: PivotNet_bs1_2p_acc", "E2E Training Duration sec: 15"),
        *(f"Final Performance sec/iter: {median:.4f}", f"ActualFPS: {2 / median:.4f}"),
        *("mAP_hard: 43.6", "mAP_easy: 61.5", "mAP_hard_train: nan", "mAP_easy_train: 80.0"),
        *("Preset: smoke", "Device: cpu (a CPU)", f"Step p90 sec/iter: {np.percentile(seconds, 90):.4f}"),
        f"Steps timed: {len(seconds)} on 2 ranks, after 3 of warm-up",
        *(f"Data wait share: {sum(waits) / sum(seconds):.4f}", "Peak device memory GiB: 3.00"),
    ]
    for folder in (run, logs):
        assert (folder / "PivotNet_bs1_2p_acc.log").read_text().strip() == lines


def test_no_final_result_without_the_measurement(tmp_path, capsys):
    for name, changes, message in (
        ("stopped", {"finished": False}, "was stopped before its end"),
        ("untimed", {"step_seconds": None}, "no step was timed"),
        ("unscored", {"evaluation": {}}, "was not evaluated on the val split"),
    ):
        make_run(tmp_path / name, **changes)
        assert message in fails(capsys, "report", tmp_path / name, "--final", "full")
    assert not list(tmp_path.rglob("*.log"))


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({}, ["--final", "full"], "has no summary.json: the run did not end"),
        ({"summary.json": "{}"}, ["--final", "full"], "lacks 'preset'"),
        ({"steps.rank0.jsonl": "{}\n"}, [], "holds no records"),
        ({"steps.rank0.jsonl": RECORD.replace("{}", '{"$": 1}')}, [], ".terms.<key> is '$', not a token"),
        ({"steps.rank0.jsonl": RECORD.replace("null", "0")}, [], "counts a step that has no time"),
        ({"steps.rank0.jsonl": RECORD.replace("1.5", "NaN")}, [], ".loss is nan, not a number"),
    ],
)
def test_what_is_missing_or_damaged_is_one_line(tmp_path, capsys, files, options, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert message in fails(capsys, "report", tmp_path, *options)


def test_a_resumed_run_counts_the_time_before(tmp_path):
    summary = make_run(tmp_path, start_step=5, train_seconds=40.0)
    own = sum(record["seconds"] or 0 for record in read_run(tmp_path).records if record["step"] >= 5)
    earlier = earlier_seconds(summary, tmp_path)
    assert earlier == pytest.approx(40.0 - own)
    text = "\n".join(final_lines(summary, "performance", earlier))
    assert f"E2E Training Duration sec: {15.4 + earlier:.0f}\n" in text and "Resumed at step: 5, " in text


def test_runs_are_compared_side_by_side_with_published_rows(tmp_path, capsys):
    runs, curves = [str(tmp_path / name) for name in ("before", "after tuning")], tmp_path / "curves.png"
    for seed, run in enumerate(runs):
        make_run(Path(run), seed=seed)
    assert cli.main(["report", *runs, "--curves", str(curves)]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("before", "after tuning", *(row[0] for row in comparison.PUBLISHED)))
    picture = cv2.imread(str(curves))
    assert picture is not None and picture.shape[1] > 1000 and picture.std() > 5


def test_columns_hold_the_numbers_of_the_summary_or_of_the_records_so_far(tmp_path):
    run = tmp_path / "run"
    summary = make_run(run)
    column = run_column(read_run(run))
    assert column["samples/s"] == f"{summary['fps']:.2f}" and column["mAP_hard (val)"] == "43.6"
    assert column["loss"] == "19.000" and column["  pts_loss"] == "9.000" and "mAP_hard (train)" not in column
    (run / "summary.json").unlink()
    with open(run / "steps.rank0.jsonl", "a") as stream:
        stream.write('{"step": 12, "seco')  # being written
    so_far = run_column(read_run(run))
    assert so_far["state"] == "not ended" and so_far["steps"] == "12"
    assert so_far["s/step, median"] == column["s/step, median"] == f"{summary['step_seconds']['median']:.4f}"
