"""The summary, the Final result, the comparison of runs, and the curves."""

import platform
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.commands import fails
from support.fake_run import EVALUATION, make_run

from pivotnet import cli, comparison
from pivotnet.comparison import read_run, run_column
from pivotnet.training.records import counted_times, read_records, records_path
from pivotnet.training.summary import TITLE, earlier_seconds, final_lines

RECORD = '{"step": 0, "seconds": null, "data_wait": 0, "counted": true, "lr": 1, "loss": 1.5, "terms": {}}\n'


def test_every_number_of_the_final_result_comes_from_the_records_and_the_evaluation(tmp_path, capsys):
    run, logs = tmp_path / "run", tmp_path / "all" / "logs"
    train = {"average": {"percent": {"mAP_hard": None, "mAP_easy": 80}}}
    make_run(run, evaluation={"val": EVALUATION, "train": train})
    assert cli.main(["report", str(run), "--final", "full", "--log-folder", str(logs)]) == 0
    lines = capsys.readouterr().out.split(TITLE, 1)[1].strip()
    seconds, waits = zip(
        *(times for rank in range(2) for times in counted_times(read_records(records_path(run, rank))))
    )
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
        ({"summary.json": '{"preset"'}, ["--final", "full"], "no JSON"),
        ({"summary.json": "{}"}, ["--final", "full"], "lacks 'preset'"),
        ({}, [], "holds no training run"),
        ({"steps.rank0.jsonl": "{}\n"}, [], "holds no records"),
        ({"steps.rank0.jsonl": RECORD.replace("{}", '{"$": 1}')}, [], ".terms.<key> is '$', not a token"),
        ({"steps.rank0.jsonl": RECORD.replace("null", "0")}, [], "counts a step that has no time"),
        ({"steps.rank0.jsonl": RECORD.replace("1.5", "NaN")}, [], ".loss is nan, not a number"),
        ({}, ["elsewhere", "--final", "full"], "takes one OUTPUT"),
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
