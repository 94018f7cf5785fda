"""The summary, the Final result, the comparison of runs, and the curves."""

import platform
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support.fake_run import EVALUATION, make_run

from pivotnet import cli, comparison
from pivotnet.comparison import read_run, run_column
from pivotnet.distributed import Ranks
from pivotnet.training import summary as summaries
from pivotnet.training.records import StepRecords, counted_times, read_records
from pivotnet.training.summary import TITLE, earlier_seconds, final_lines, read_summary, write_summary

STEPS, RANKS = 12, 2
RECORD = '{"step": 0, "seconds": null, "data_wait": 0, "counted": true, "lr": 1, "loss": 1.5, "terms": {}}\n'


def times_of(folder: Path) -> tuple[tuple[float, ...], ...]:
    records = [record for path in folder.glob("steps.rank*.jsonl") for record in read_records(path)]
    return tuple(zip(*counted_times(records)))


def test_a_summary_is_made_from_the_records_of_all_ranks(tmp_path, monkeypatch):
    run = tmp_path / "run"
    make_run(run)
    ranks = [list(read_records(run / f"steps.rank{rank}.jsonl")) for rank in range(RANKS)]
    gathered = [(counted_times(records), memory) for records, memory in zip(ranks, (5, 7))]
    monkeypatch.setattr(summaries, "gather_objects", lambda value, ranks: gathered)
    summary = summaries.summarise(
        StepRecords(run, 0, STEPS, STEPS),
        Ranks(world_size=RANKS),
        torch.device("cpu"),
        1,
        started=0.0,
        checkpoint=run / "checkpoints" / "x.pth",
        **{"preset": "smoke", "samples": 6, "train_seconds": 9.0, "finished": True},
    )
    seconds, waits = times_of(run)
    times = {"median": np.median(seconds), "p90": np.percentile(seconds, 90), "count": len(seconds), "warmup": 3}
    assert summary["step_seconds"] == pytest.approx(times)
    assert summary["fps"] == pytest.approx(RANKS / np.median(seconds))
    assert summary["data_wait_share"] == pytest.approx(sum(waits) / sum(seconds))
    assert (summary["steps"], summary["final_loss"], summary["peak_memory_bytes"]) == (STEPS, 19.0, 7)
    assert (summary["preset"], summary["samples"], summary["checkpoint"]) == ("smoke", 6, "checkpoints/x.pth")
    write_summary(tmp_path, summary)
    assert read_summary(tmp_path) == summary


def test_every_number_of_the_final_result_comes_from_the_records_and_the_evaluation(tmp_path, capsys):
    run, logs = tmp_path / "run", tmp_path / "all" / "logs"
    train = {"average": {"percent": {"mAP_hard": None, "mAP_easy": 80}}}
    make_run(run, evaluation={"val": EVALUATION, "train": train})
    assert cli.main(["report", str(run), "--final", "full", "--log-folder", str(logs)]) == 0
    lines = capsys.readouterr().out.split(TITLE, 1)[1].strip()
    seconds, waits = times_of(run)
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
        assert cli.main(["report", str(tmp_path / name), "--final", "full"]) == 2
        out, err = capsys.readouterr()
        assert "Final result" not in out and message in err and err.count("\n") == 1
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
    assert cli.main(["report", str(tmp_path), *options]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


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


def test_a_run_many_times_slower_is_within_the_axis_of_step_times(tmp_path, monkeypatch):
    axes = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *args, **more: axes.extend(figure.axes))
    runs = [read_run(make_run(tmp_path / name) and tmp_path / name) for name in ("fast", "slow")]
    for record in runs[1].records:
        record["seconds"] = record["seconds"] and 100 * record["seconds"]
    comparison.draw_curves(runs, tmp_path / "curves.png")
    (axis,) = (axis for axis in axes if axis.get_ylabel() == "s/step")
    bottom, top = axis.get_ylim()
    assert bottom == 0 and all(line.get_ydata().max() < top for line in axis.lines) and axis.get_xlabel() == "step"


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
