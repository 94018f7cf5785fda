"""The "Final result" block, with the keys that users of the published port parse."""

from __future__ import annotations

import platform
from typing import Any

from pivotnet.errors import PivotNetError

TITLE = "------------------ Final result ------------------"
NETWORK = "PivotNet"
KINDS = {"performance": "performance", "full": "acc"}  # run script -> ending of its case name
GIB = 1 << 30


def case_name(summary: dict[str, Any], kind: str) -> str:
    """Name of the case as the published scripts build it, such as PivotNet_bs1_8p_performance."""
    return f"{NETWORK}_bs{summary['batch_size']}_{summary['ranks']}p_{KINDS[kind]}"


def final_lines(summary: dict[str, Any], kind: str, earlier_seconds: float = 0.0) -> list[str]:
    """The lines "key: value" of the block.

    Args:
        summary: of a finished run.
        kind: performance or full; the latter needs the evaluation of the val split, and prints that of the train split
            where it was made.
        earlier_seconds: what the processes that this run resumed have trained, added to its duration.

    Raises:
        PivotNetError: the run did not finish, or did not measure what the block has to tell.
    """
    times = summary["step_seconds"]
    if not summary["finished"]:
        raise PivotNetError("the run was stopped before its end, so there is no final result; go on with --resume")
    if times is None or times["median"] is None:
        raise PivotNetError("no step was timed: each was warm-up or came behind a checkpoint; run more steps")
    lines = [
        f"Network: {NETWORK}",
        f"RankSize: {summary['ranks']}",
        f"BatchSize: {summary['batch_size']}",
        f"DeviceType: {platform.machine()}",
        f"CaseName: {case_name(summary, kind)}",
        f"E2E Training Duration sec: {summary['wall_seconds'] + earlier_seconds:.0f}",
        f"Final Performance sec/iter: {times['median']:.4f}",
        f"ActualFPS: {summary['global_batch'] / times['median']:.4f}",
    ]
    if kind == "full":
        lines += _accuracy(summary)
    if earlier_seconds:
        step = summary["start_step"]
        lines.append(f"Resumed at step: {step}, after {earlier_seconds:.0f} s of training, counted above")
    return lines + [
        f"Preset: {summary['preset']}",
        f"Device: {summary['device']} ({summary['device_name']})",
        f"Step p90 sec/iter: {times['p90']:.4f}",
        f"Steps timed: {times['count']} on {summary['ranks']} ranks, after {times['warmup']} of warm-up",
        f"Data wait share: {summary['data_wait_share']:.4f}",
        f"Peak device memory GiB: {summary['peak_memory_bytes'] / GIB:.2f}",
    ]


def _accuracy(summary: dict[str, Any]) -> list[str]:
    """mAP in percent with one decimal, as evaluation's table prints it."""
    evaluation = summary.get("evaluation", {})
    if "val" not in evaluation:
        raise PivotNetError("the run was not evaluated on the val split; run pivotnet evaluate on its checkpoint")
    lines = []
    for split, suffix in (("val", ""), ("train", "_train")):
        if split in evaluation:
            percent = evaluation[split]["average"]["percent"]
            for key in ("mAP_hard", "mAP_easy"):
                value = percent[key]
                lines.append(f"{key}{suffix}: {'nan' if value is None else format(value, '.1f')}")
    return lines
