"""Tables of several training runs side by side, and of what others have published."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
from rich.table import Table

from pivotnet.report.published import ROWS
from pivotnet.report.run import RunData

GIB = 1 << 30
NOTHING = "-"


def _number(value: Optional[float], digits: int) -> str:
    return NOTHING if value is None else format(value, f".{digits}f")


def _share(value: Optional[float]) -> str:
    return NOTHING if value is None else f"{value:.1%}"


def _percent(summary: dict[str, Any], split: str, key: str) -> str:
    """mAP of a split as evaluation's table prints it."""
    evaluation = summary.get("evaluation") or {}
    if split not in evaluation:
        return NOTHING
    return _number(evaluation[split]["average"]["percent"][key], 1)


def _state(run: RunData) -> str:
    if run.summary is None:
        return "not ended"
    return "finished" if run.summary["finished"] else "stopped early"


def run_column(run: RunData) -> dict[str, str]:
    """{quantity: value as printed} of one run; of one that has not ended: what its records tell so far."""
    summary = run.summary or {}
    last = run.records[-1] if run.records else {}
    times = summary.get("step_seconds") or {}
    share = summary.get("data_wait_share")
    if not summary and run.step_seconds:
        times = {
            "median": float(np.median(run.step_seconds)),
            "p90": float(np.percentile(run.step_seconds, 90)),
            "count": len(run.step_seconds),
        }
        share = sum(run.data_wait) / sum(run.step_seconds)
    median = times.get("median")
    fps = summary["global_batch"] / median if summary and median else None
    memory = summary.get("peak_memory_bytes")
    column = {
        "state": _state(run),
        "preset": summary.get("preset", NOTHING),
        "device": f"{summary['device']} ({summary['device_name']})" if "device_name" in summary else NOTHING,
        "ranks x batch": f"{summary['ranks']} x {summary['batch_size']}" if summary else NOTHING,
        "steps": str(summary.get("steps", last.get("step", -1) + 1)),
        "steps timed": str(times.get("count", 0)),
        "s/step, median": _number(median, 4),
        "s/step, p90": _number(times.get("p90"), 4),
        "samples/s": _number(fps, 2),
        "data wait": _share(share),
        "peak memory GiB": _number(memory / GIB if memory else None, 2),
        "training s": _number(summary.get("train_seconds"), 0),
        "loss": _number(last.get("loss"), 3),
    }
    for name in sorted(last.get("terms", {})):
        column[f"  {name}"] = _number(last["terms"][name], 3)
    for split in ("val", "train"):
        for key in ("mAP_hard", "mAP_easy"):
            value = _percent(summary, split, key)
            if split == "val" or value != NOTHING:
                column[f"{key} ({split})"] = value
    return column


def comparison_table(runs: list[RunData]) -> Table:
    """One column for each run."""
    columns = [run_column(run) for run in runs]
    table = Table(caption="loss: of the last step")
    table.add_column("", no_wrap=True)
    for run in runs:
        table.add_column(run.name, justify="right", overflow="fold")
    for name in dict.fromkeys(name for column in columns for name in column):
        table.add_row(name, *(column.get(name, NOTHING) for column in columns))
    return table


def published_table() -> Table:
    """What others have published, for reference."""
    table = Table(title="published, for reference: 8 cards, batch 1 a card, 30 epochs on nuScenes; not measured here")
    table.add_column("by", no_wrap=True)
    for name in ("preset", "s/step", "samples/s", "mAP_hard (val)", "mAP_easy (val)"):
        table.add_column(name, justify="right")
    for row in ROWS:
        speed = (_number(row.step_seconds, 2), _number(row.fps, 2))
        table.add_row(row.name, row.preset, *speed, _number(row.map_hard, 1), _number(row.map_easy, 1))
    return table
