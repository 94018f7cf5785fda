"""Training runs side by side, and beside what others have published: tables, and curves in one picture."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from pivotnet.errors import PivotNetError
from pivotnet.files import atomic_write
from pivotnet.training.records import GIB, counted_times, read_records
from pivotnet.training.summary import SUMMARY, read_summary, step_statistics

NOTHING = "-"
PANELS_A_ROW = 3
POINTS = 200  # of a curve at most; those of a longer run are means over equally many steps

CARDS = 8
# Measured by their publishers on their machines, with 8 cards, batch 1 a card, 30 epochs:
# who, preset, seconds a step (where published), mAP_hard and mAP_easy in percent.
PUBLISHED = (
    # Ascend DrivingSDK, model_examples/PivotNet
    ("competitor A", "swint", 0.58, 43.6, 61.6),
    ("Atlas 800T A2", "swint", 0.89, 43.8, 61.9),
    ("Atlas 800T A2, tcmalloc and LTO Python", "swint", 0.82, 43.8, 61.9),
    # wenjie710/PivotNet, README
    ("upstream, Swin-T", "swint", None, 43.6, 61.6),
    ("upstream, ResNet-50", "res50", None, 39.8, 57.1),
    ("upstream, EfficientNet-B0", "effb0", None, 39.8, 57.8),
)


@dataclass
class RunData:
    """One run as far as it has come."""

    folder: Path
    summary: dict[str, Any] | None  # None while the run has not ended
    records: list[dict[str, Any]]  # of rank 0: losses and rates are the same in all ranks
    counted: list[tuple[float, float]]  # seconds and data waits of the counted steps of all ranks

    @property
    def name(self) -> str:
        return os.path.basename(os.path.realpath(self.folder))


def read_run(folder: Path) -> RunData:
    """Records and, where the run has ended, summary of the run in ``folder``; PivotNetError where there is none."""
    summary = read_summary(folder) if (folder / SUMMARY).exists() else None
    ranks = [list(read_records(path)) for path in sorted(folder.glob("steps.rank*.jsonl"))]
    if summary is None and not any(ranks):
        raise PivotNetError(f"{folder} holds no training run: give the --output folder of one")
    return RunData(folder, summary, ranks[0] if ranks else [], counted_times(chain(*ranks)))


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else format(value, f".{digits}f")


def run_column(run: RunData) -> dict[str, str]:
    """{quantity: value as printed} of one run; of one that has not ended, what its records contain so far."""
    summary = run.summary or {}
    last = run.records[-1] if run.records else {}
    measured = summary or step_statistics(run.counted)
    times, share = measured.get("step_seconds") or {}, measured.get("data_wait_share")
    memory = summary.get("peak_memory_bytes")
    column = {
        "state": {None: "not ended", True: "finished", False: "stopped early"}[summary.get("finished")],
        "preset": summary.get("preset", NOTHING),
        "device": f"{summary['device']} ({summary['device_name']})" if "device_name" in summary else NOTHING,
        "ranks x batch": f"{summary['ranks']} x {summary['batch_size']}" if summary else NOTHING,
        "steps": str(summary.get("steps", last.get("step", -1) + 1)),
        "steps timed": str(times.get("count", 0)),
        "s/step, median": _number(times.get("median"), 4),
        "s/step, p90": _number(times.get("p90"), 4),
        "samples/s": _number(summary.get("fps"), 2),
        "data wait": NOTHING if share is None else f"{share:.1%}",
        "peak memory GiB": _number(memory / GIB if memory else None, 2),
        "training s": _number(summary.get("train_seconds"), 0),
        "loss": _number(last.get("loss"), 3),
    }
    for name, value in sorted(last.get("terms", {}).items()):
        column[f"  {name}"] = _number(value, 3)
    evaluation = summary.get("evaluation") or {}
    for split in ("val", "train"):
        percent = evaluation[split]["average"]["percent"] if split in evaluation else {}
        for key in ("mAP_hard", "mAP_easy"):
            if split == "val" or percent.get(key) is not None:
                column[f"{key} ({split})"] = _number(percent.get(key), 1)
    return column


def comparison_table(runs: list[RunData]) -> Table:
    columns = [run_column(run) for run in runs]
    table = Table(caption="loss: of the last step")
    table.add_column("", no_wrap=True)
    for run in runs:
        table.add_column(run.name, justify="right", overflow="fold")
    for name in dict.fromkeys(name for column in columns for name in column):
        table.add_row(name, *(column.get(name, NOTHING) for column in columns))
    return table


def published_table() -> Table:
    table = Table(title="published, for reference: 8 cards, batch 1 a card, 30 epochs on nuScenes; not measured here")
    table.add_column("by", no_wrap=True)
    for name in ("preset", "s/step", "samples/s", "mAP_hard (val)", "mAP_easy (val)"):
        table.add_column(name, justify="right")
    for name, preset, seconds, hard, easy in PUBLISHED:
        speed = (_number(seconds, 2), _number(CARDS / seconds if seconds else None, 2))
        table.add_row(name, preset, *speed, _number(hard, 1), _number(easy, 1))
    return table


def draw_curves(runs: list[RunData], path: Path) -> None:
    """Write a PNG with one panel for each quantity and one line for each run."""
    from matplotlib.figure import Figure  # takes a second that a table need not wait for

    terms = sorted({name for run in runs for record in run.records for name in record["terms"]})
    panels = ["loss", *terms, "lr", "s/step"]
    rows = -(-len(panels) // PANELS_A_ROW)
    figure = Figure(figsize=(4.2 * PANELS_A_ROW, 2.8 * rows), layout="constrained")
    axes = figure.subplots(rows, PANELS_A_ROW, squeeze=False).ravel()
    for axis, name in zip(axes, panels):
        axis.set(xlabel="step", ylabel=name)
        axis.grid(alpha=0.3)
        for run in runs:
            # checkpoints and first steps may take a hundred times as long as the counted steps
            found = [record for record in run.records if record["counted"] or name != "s/step"]
            values = [{**record, **record["terms"], "s/step": record["seconds"]} for record in found]
            points = np.array([(one["step"] + 1, one[name]) for one in values if name in one], float).reshape(-1, 2)
            if len(points):
                parts = np.array_split(points, min(POINTS, len(points)))
                axis.plot(*np.transpose([part.mean(axis=0) for part in parts]), label=run.name.replace("$", r"\$"))
        if name == "s/step":
            axis.set_ylim(bottom=0)  # runs are compared by ratios; none is cut off
    axes[0].legend(fontsize=8)
    for axis in axes[len(panels) :]:
        axis.remove()
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=110)
