"""What a run was: OUTPUT/summary.json, which rank 0 writes when the run ends, and the "Final result" made from it.
Training here and in the patched tree of upstream writes the same summary; ``summarise`` says what is in it."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pivotnet import device as devices
from pivotnet.distributed import Ranks, gather_objects
from pivotnet.errors import PivotNetError
from pivotnet.files import read_json, write_json
from pivotnet.schema import fields, flag, mapping, nullable, number, printable
from pivotnet.training.records import GIB, StepRecords, counted_times, read_records, records_path

SUMMARY = "summary.json"
_COUNT = number(0, whole=True)
_TIMES = {"median": number(1e-9, 1e9), "p90": number(1e-9, 1e9), "count": _COUNT, "warmup": nullable(_COUNT)}
_PERCENT = fields({key: nullable(number(0, 100)) for key in ("mAP_hard", "mAP_easy")})
_SUMMARY = fields(
    {
        **dict.fromkeys(("preset", "device", "device_name"), printable),
        **dict.fromkeys(("ranks", "batch_size", "global_batch"), number(1, 1e9, whole=True)),
        **dict.fromkeys(("steps", "start_step"), _COUNT),
        **dict.fromkeys(("train_seconds", "wall_seconds"), number(0, 1e12)),
        "step_seconds": nullable(fields(_TIMES)),
        "data_wait_share": nullable(number(0, 1)),
        "fps": nullable(number(0)),
        "peak_memory_bytes": number(0, 2**63, whole=True),
        "finished": flag,
        "evaluation": mapping(fields({"average": fields({"percent": _PERCENT})})),
    }
)
TITLE = "------------------ Final result ------------------"
KINDS = {"performance": "performance", "full": "acc"}  # run script -> ending of its case name


def step_statistics(counted: list[tuple[float, float]], warmup: int | None = None) -> dict[str, Any]:
    """``step_seconds`` (None without any), and the share of them spent waiting for data, of ``counted_times``."""
    if not counted:
        return {"step_seconds": None, "data_wait_share": None}
    seconds, waits = np.array(counted).T
    median, p90 = np.percentile(seconds, (50, 90)).tolist()
    times = {"median": median, "p90": p90, "count": len(seconds), "warmup": warmup}
    return {"step_seconds": times, "data_wait_share": float(waits.sum() / seconds.sum())}


def summarise(
    clock: StepRecords,
    ranks: Ranks,
    device: torch.device,
    batch_size: int,
    started: float,
    checkpoint: Path | None = None,
    **known: Any,
) -> dict[str, Any]:
    """The summary, out of the records of all ranks; every rank calls this, after one step at the least. ``started`` is
    ``time.perf_counter()`` of the process's start. ``known`` has preset, precision, seed, epochs, steps_per_epoch,
    samples; train_seconds, inside the loop of this process and those it resumed; finished, false after SIGTERM."""
    records = list(read_records(clock.path))
    last = records[-1]
    gathered = gather_objects((counted_times(records), devices.peak_memory(device)), ranks)
    statistics = step_statistics([step for counted, _ in gathered for step in counted], clock.warmup)
    times, global_batch = statistics["step_seconds"], batch_size * ranks.world_size
    return {
        **known,
        "device": device.type,
        "device_name": devices.device_name(device),
        "ranks": ranks.world_size,
        "batch_size": batch_size,  # samples a rank
        "global_batch": global_batch,
        "start_step": clock.start_step,
        "steps": last["step"] + 1,
        **statistics,  # over the counted steps of all ranks
        "fps": global_batch / times["median"] if times else None,  # samples a second
        "wall_seconds": time.perf_counter() - started,  # with start-up
        "peak_memory_bytes": max(memory for _, memory in gathered),  # of a device's allocator; a CPU's resident memory
        "final_loss": last["loss"],  # of the last step
        "final_terms": last["terms"],
        "checkpoint": os.path.relpath(checkpoint, clock.path.parent) if checkpoint else None,
        "evaluation": {},  # {split: result of pivotnet evaluate}
        "versions": devices.versions(),
    }


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    write_json(folder / SUMMARY, summary, indent=2)


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of the run in ``folder``; PivotNetError where the run did not end, or it is damaged."""
    path = folder / SUMMARY
    if not path.exists():
        raise PivotNetError(f"{folder} has no {SUMMARY}: the run did not end; go on with --resume")
    return read_json(path, "it was not written by pivotnet train of this version; run the training again", _SUMMARY)


def earlier_seconds(summary: dict[str, Any], folder: Path) -> float:
    """Seconds that the processes which this run resumed have trained, up to the checkpoint that it went on from."""
    if not summary["start_step"]:
        return 0.0
    records = read_records(records_path(folder, 0))
    own = sum(record["seconds"] or 0.0 for record in records if record["step"] >= summary["start_step"])
    return max(0.0, summary["train_seconds"] - own)


def case_name(summary: dict[str, Any], kind: str) -> str:
    """Name of the case as the published scripts build it, such as PivotNet_bs1_8p_performance."""
    network = "BeMapNet" if summary["preset"].startswith("bemapnet") else "PivotNet"  # in the patched tree
    return f"{network}_bs{summary['batch_size']}_{summary['ranks']}p_{KINDS[kind]}"


def final_lines(summary: dict[str, Any], kind: str, earlier: float = 0.0) -> list[str]:
    """The lines "key: value" of the Final result, with the keys that users of the published port parse. ``kind`` full
    needs the evaluation of the val split, and prints that of the train split where it was made. ``earlier`` seconds
    (see ``earlier_seconds``) are added to the run's duration. Raises PivotNetError: the run did not finish, or did not
    measure what the block has to say."""
    times = summary["step_seconds"]
    if not summary["finished"]:
        raise PivotNetError("the run was stopped before its end, so there is no final result; go on with --resume")
    if times is None:
        raise PivotNetError("no step was timed: each was warm-up or came after a checkpoint; run more steps")
    lines = [
        f"Network: {case_name(summary, kind).partition('_')[0]}",
        f"RankSize: {summary['ranks']}",
        f"BatchSize: {summary['batch_size']}",
        f"DeviceType: {platform.machine()}",
        f"CaseName: {case_name(summary, kind)}",
        f"E2E Training Duration sec: {summary['wall_seconds'] + earlier:.0f}",
        f"Final Performance sec/iter: {times['median']:.4f}",
        f"ActualFPS: {summary['global_batch'] / times['median']:.4f}",
    ]
    evaluation = summary["evaluation"] if kind == "full" else {}
    if kind == "full" and "val" not in evaluation:
        raise PivotNetError("the run was not evaluated on the val split; run pivotnet evaluate on its checkpoint")
    for split, suffix in (("val", ""), ("train", "_train")):
        for key in ("mAP_hard", "mAP_easy") if split in evaluation else ():
            value = evaluation[split]["average"]["percent"][key]  # with one decimal, as evaluation's table prints it
            lines.append(f"{key}{suffix}: {'nan' if value is None else format(value, '.1f')}")
    if earlier:
        lines.append(f"Resumed at step: {summary['start_step']}, after {earlier:.0f} s of training, counted above")
    return lines + [
        f"Preset: {summary['preset']}",
        f"Device: {summary['device']} ({summary['device_name']})",
        f"Step p90 sec/iter: {times['p90']:.4f}",
        f"Steps timed: {times['count']} on {summary['ranks']} ranks, after {times['warmup']} of warm-up",
        f"Data wait share: {summary['data_wait_share']:.4f}",
        f"Peak device memory GiB: {summary['peak_memory_bytes'] / GIB:.2f}",
    ]
