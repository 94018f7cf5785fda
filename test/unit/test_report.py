"""The Final result, the comparison of runs, and the curves."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from support.fake_run import EVALUATION, make_run

from pivotnet import cli
from pivotnet.report import final, table
from pivotnet.report.published import ROWS
from pivotnet.report.run import earlier_seconds, read_run


def lines_of(text: str) -> dict[str, str]:
    """{key: value} of a Final result."""
    body = text.split(final.TITLE, 1)[1]
    return dict(line.split(": ", 1) for line in body.strip().splitlines())


def test_every_number_of_the_final_result_comes_from_the_records(tmp_path, capsys):
    make_run(tmp_path / "run")
    logs = tmp_path / "all" / "logs"
    assert cli.main(["report", str(tmp_path / "run"), "--final", "performance", "--log-folder", str(logs)]) == 0
    values = lines_of(capsys.readouterr().out)
    seconds, waits = [], []
    for path in (tmp_path / "run").glob("steps.rank*.jsonl"):
        for record in map(json.loads, path.read_text().splitlines()):
            if record["counted"]:
                seconds.append(record["seconds"])
                waits.append(record["data_wait"])
    assert values["Network"] == "PivotNet" and values["CaseName"] == "PivotNet_bs1_2p_performance"
    assert int(values["RankSize"]) == 2 and int(values["BatchSize"]) == 1
    assert values["E2E Training Duration sec"] == "15"
    assert float(values["Final Performance sec/iter"]) == pytest.approx(np.median(seconds), abs=5e-5)
    assert float(values["ActualFPS"]) == pytest.approx(2 / np.median(seconds), abs=5e-5)
    assert float(values["Step p90 sec/iter"]) == pytest.approx(np.percentile(seconds, 90), abs=5e-5)
    assert values["Steps timed"] == f"{len(seconds)} on 2 ranks, after 3 of warm-up"
    assert float(values["Data wait share"]) == pytest.approx(sum(waits) / sum(seconds), abs=5e-5)
    assert float(values["Peak device memory GiB"]) == 3.0
    for folder in (tmp_path / "run", logs):
        written = (folder / "PivotNet_bs1_2p_performance.log").read_text()
        assert dict(line.split(": ", 1) for line in written.splitlines()) == values


def test_the_full_result_has_the_accuracy_of_the_evaluation(tmp_path, capsys):
    make_run(
        tmp_path / "run",
        evaluation={"val": EVALUATION, "train": {"average": {"percent": {"mAP_hard": None, "mAP_easy": 80}}}},
    )
    assert cli.main(["report", str(tmp_path / "run"), "--final", "full"]) == 0
    values = lines_of(capsys.readouterr().out)
    assert values["CaseName"] == "PivotNet_bs1_2p_acc"
    assert (values["mAP_hard"], values["mAP_easy"]) == ("43.6", "61.5")
    assert (values["mAP_hard_train"], values["mAP_easy_train"]) == ("nan", "80.0")


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"finished": False}, "performance", "was stopped before its end"),
        ({"step_seconds": None}, "performance", "no step was timed"),
        ({"evaluation": {}}, "full", "was not evaluated on the val split"),
    ],
)
def test_no_final_result_without_the_measurement(tmp_path, capsys, changes, kind, message):
    make_run(tmp_path / "run", **changes)
    assert cli.main(["report", str(tmp_path / "run"), "--final", kind]) == 2
    out, err = capsys.readouterr()
    assert "Final result" not in out and message in err and err.count("\n") == 1
    assert not list((tmp_path / "run").glob("*.log"))


@pytest.mark.parametrize("content", [None, "", "{}", "[]", "3", '{"preset"'])
def test_a_missing_or_damaged_summary_is_one_line(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    assert cli.main(["report", str(tmp_path), "--final", "performance"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_resumed_run_counts_the_time_before(tmp_path):
    summary = make_run(tmp_path / "run", steps=12, start_step=5, train_seconds=40.0)
    own = sum(record["seconds"] or 0 for record in read_run(tmp_path / "run").records if record["step"] >= 5)
    earlier = earlier_seconds(summary, tmp_path / "run")
    assert earlier == pytest.approx(40.0 - own)
    lines = final.final_lines(summary, "performance", earlier)
    assert f"E2E Training Duration sec: {15.4 + earlier:.0f}" in lines
    assert any(line.startswith("Resumed at step: 5") for line in lines)


def test_runs_are_compared_side_by_side_with_published_rows(tmp_path, capsys):
    make_run(tmp_path / "before")
    make_run(tmp_path / "after tuning", seed=1, evaluation={})
    curves = tmp_path / "curves.png"
    assert cli.main(["report", str(tmp_path / "before"), str(tmp_path / "after tuning"), "--curves", str(curves)]) == 0
    out = capsys.readouterr().out
    assert "before" in out and "after tuning" in out and "published" in out
    assert all(row.name in out for row in ROWS)
    picture = cv2.imread(str(curves))
    assert picture is not None and picture.shape[1] > 1000 and picture.std() > 5


def test_columns_hold_the_numbers_of_the_summary(tmp_path):
    summary = make_run(tmp_path / "run")
    column = table.run_column(read_run(tmp_path / "run"))
    assert column["s/step, median"] == f"{summary['step_seconds']['median']:.4f}"
    assert column["samples/s"] == f"{summary['fps']:.2f}"
    assert column["mAP_hard (val)"] == "43.6" and column["loss"] == "19.000" and column["  pts_loss"] == "9.000"


def test_a_run_that_goes_on_is_shown_by_its_records(tmp_path):
    make_run(tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    with open(tmp_path / "run" / "steps.rank0.jsonl", "a") as stream:
        stream.write('{"step": 12, "seco')  # being written
    run = read_run(tmp_path / "run")
    column = table.run_column(run)
    assert column["state"] == "not ended" and column["steps"] == "12"
    assert column["s/step, median"] == f"{np.median(run.step_seconds):.4f}"


def test_a_folder_without_a_run_and_damaged_records(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "holds no training run" in capsys.readouterr().err
    (tmp_path / "steps.rank0.jsonl").write_text("{}\n")
    assert cli.main(["report", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "holds no records" in err and err.count("\n") == 1


def test_final_takes_one_run(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path), str(tmp_path), "--final", "full"]) == 2
    assert "takes one OUTPUT" in capsys.readouterr().err


def test_a_curve_of_many_steps_is_averaged():
    from pivotnet.report.curves import averaged

    steps, values = averaged(np.arange(1000.0), np.arange(1000.0) * 2, points=10)
    assert len(steps) == 10 and np.allclose(values, 2 * steps) and steps[0] == np.arange(100).mean()
