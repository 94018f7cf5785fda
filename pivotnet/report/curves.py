"""Curves of several training runs in one picture: loss and its terms, learning rate, step time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pivotnet.files import atomic_write
from pivotnet.report.run import RunData

COLUMNS = 3
SMOOTHED = 200  # points of a curve; longer ones are means over equally many steps


def series(run: RunData, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps (counted from 1) and values of ``loss``, ``lr``, ``seconds`` or a term, where a record has them."""
    points = []
    for record in run.records:
        value = record.get(key) if key in ("loss", "lr", "seconds") else record["terms"].get(key)
        if value is not None:
            points.append((record["step"] + 1, value))
    return np.array([step for step, _ in points], float), np.array([value for _, value in points], float)


def averaged(steps: np.ndarray, values: np.ndarray, points: int = SMOOTHED) -> tuple[np.ndarray, np.ndarray]:
    """Means over runs of equally many neighbours, so that at most ``points`` are left."""
    if len(steps) <= points:
        return steps, values
    parts = [np.array_split(array, points) for array in (steps, values)]
    return np.array([part.mean() for part in parts[0]]), np.array([part.mean() for part in parts[1]])


def draw_curves(runs: list[RunData], path: Path) -> None:
    """Write a PNG with one panel for each quantity and one colour for each run.

    Raises:
        PivotNetError: the picture cannot be written.
    """
    terms = sorted({name for run in runs for record in run.records for name in record["terms"]})
    panels = [("loss", "loss"), *((name, name) for name in terms), ("lr", "learning rate"), ("seconds", "s/step")]
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(4.2 * COLUMNS, 2.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axis, (key, title) in zip(axes, panels):
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
        for number, run in enumerate(runs):
            axis.plot(*averaged(*series(run, key)), color=f"C{number % 10}", linewidth=1.2, label=run.name)
            if key == "seconds" and run.step_seconds:
                median = float(np.median(run.step_seconds))
                axis.axhline(median, color=f"C{number % 10}", linestyle="--", linewidth=0.8)
        if key == "seconds":
            _limit_to_steps(axis, runs)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    axes[0].legend(fontsize=8)
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=110)


def _limit_to_steps(axis: Axes, runs: list[RunData]) -> None:
    """Keep the counted steps in view: checkpoints and first steps may take a hundred times as long."""
    counted = [value for run in runs for value in run.step_seconds]
    if counted:
        axis.set_ylim(0, 1.5 * float(np.percentile(counted, 99)))
