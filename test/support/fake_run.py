"""What a training run leaves, made up: records of its steps, and its summary."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pivotnet.training.timing import summarise

EVALUATION = {"average": {"percent": {"mAP_hard": 43.6, "mAP_easy": 61.5}}}


def make_run(folder: Path, steps: int = 12, ranks: int = 2, seed: int = 0, start_step: int = 0, **changes) -> dict:
    """A run's records, and its summary made out of them as the trainer does."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    times, waits = [], []
    for rank in range(ranks):
        lines = []
        for step in range(steps):
            first = step in (0, start_step)
            seconds = None if first else float(rng.uniform(0.5, 1.5))
            counted = not first and step >= 3
            record = {"step": step, "seconds": seconds, "data_wait": 0.01, "counted": counted, "lr": 1e-4 * (step + 1)}
            record.update(loss=30.0 - step, terms={"pts_loss": 20.0 - step, "sem_msk_loss": 10.0})
            lines.append(json.dumps(record) + "\n")
            if counted:
                times.append(seconds)
                waits.append(0.01)
        (folder / f"steps.rank{rank}.jsonl").write_text("".join(lines))
    summary = {
        **{"preset": "smoke", "device": "cpu", "device_name": "a CPU", "ranks": ranks, "batch_size": 1},
        **{"global_batch": ranks, "steps": steps, "start_step": start_step, "final_loss": 30.0 - steps + 1},
        **summarise(times, waits, ranks, 3),
        **{"train_seconds": 11.0, "wall_seconds": 15.4, "peak_memory_bytes": 3 << 30, "finished": True},
        "evaluation": {"val": EVALUATION},
        **changes,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return summary
