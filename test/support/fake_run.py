"""What a training run leaves, made up: records of its steps, and its summary."""

import json
from pathlib import Path

import numpy as np

from pivotnet.training.records import counted_times
from pivotnet.training.summary import step_statistics, write_summary

EVALUATION = {"average": {"percent": {"mAP_hard": 43.6, "mAP_easy": 61.5}}}


def make_run(folder: Path, steps: int = 12, ranks: int = 2, seed: int = 0, start_step: int = 0, **changes) -> dict:
    """A run's records, and a summary of their numbers, with ``changes``."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    counted = []
    for rank in range(ranks):
        records = []
        for step in range(steps):
            seconds = None if step in (0, start_step) else float(rng.uniform(0.5, 1.5))
            record = {"step": step, "seconds": seconds, "data_wait": 0.01, "lr": 1e-4 * (step + 1)}
            record.update(counted=seconds is not None and step >= 3, loss=30.0 - step)
            records.append({**record, "terms": {"pts_loss": 20.0 - step, "sem_msk_loss": 10.0}})
        (folder / f"steps.rank{rank}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        counted += counted_times(records)
    statistics = step_statistics(counted, 3)
    times = statistics["step_seconds"]
    summary = {
        **{"preset": "smoke", "device": "cpu", "device_name": "a CPU", "ranks": ranks, "batch_size": 1},
        **{"global_batch": ranks, "steps": steps, "start_step": start_step, "final_loss": 30.0 - steps + 1},
        **{**statistics, "fps": ranks / times["median"], "train_seconds": 11.0, "wall_seconds": 15.4},
        **{"peak_memory_bytes": 3 << 30, "finished": True, "evaluation": {"val": EVALUATION}, **changes},
    }
    write_summary(folder, summary)
    return summary
