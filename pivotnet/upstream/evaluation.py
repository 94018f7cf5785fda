"""Result files against annotations, over the cores of the machine: for the evaluation of the patched tree after its
inference, and for its tools/evaluation/eval.py."""

import contextlib
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pivotnet.config import MapConfig
from pivotnet.console import progress
from pivotnet.distributed import ranks_from_environment
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.results import result_path
from pivotnet.evaluation.score import format_table, score_files, table_dict
from pivotnet.files import PathLike
from pivotnet.launch.torchrun import hand_over
from pivotnet.upstream.callbacks import add_evaluation
from pivotnet.upstream.launch import LOGS
from pivotnet.upstream.samples import split_tokens
from pivotnet.upstream.settings import require


class ResultEvaluator:
    """What eval.py does: average precision of the result files in ``dt_dir`` against the samples in ``gt_dir``, listed
    in ``val_txt`` (see ``split_tokens``). ``options`` are upstream's: batch_size (the cores decide here), num_classes,
    map_resolution (metres, both ways)."""

    def __init__(self, gt_dir: PathLike, dt_dir: PathLike, val_txt: PathLike, **options: Any) -> None:
        sys.excepthook = hand_over  # errors are one line
        require("the evaluator", options, {"num_classes": 3, "map_resolution": (MapConfig().resolution,) * 2})
        self.arguments = gt_dir, dt_dir, val_txt

    def execute(self) -> None:
        """Print upstream's table; raises what ``evaluate_split`` raises."""
        # eval.py guards no main module, which spawned processes would run again; and it holds no device.
        print(evaluate_split(*self.arguments, start_method="fork"))


def evaluate_split(gt_dir: PathLike, dt_dir: PathLike, val_txt: PathLike, start_method: str = "spawn") -> str:
    """Upstream's table of a split, which is added to the summary of the run in PIVOTNET_OUTPUT if there is one. Raises
    PivotNetError: a file is missing or damaged."""
    pairs = [(result_path(dt_dir, token), Path(gt_dir) / f"{token}.npz") for token in split_tokens(val_txt, gt_dir)]
    result = score_files(pairs, MapConfig().resolution, start_method=start_method)
    add_evaluation(Path(val_txt).stem, table_dict(result))
    table = format_table(result.ap)
    if os.environ.get(LOGS):  # upstream's log, which shows it, is not on the console
        print(f"{val_txt}\n{table}", flush=True)
    return table


def tqdm(steps: range) -> Iterable[int]:
    """A progress bar over steps of inference, for rank 0 on a terminal."""
    return progress(steps, "predict", len(steps), not ranks_from_environment().main)


def annotated_splits(val_txts: Sequence[str], gt_dir: PathLike) -> list[str]:
    """Those of upstream's split files of which ``gt_dir`` has samples; the others are named in one line. The first is
    that of the samples which were predicted, and always there."""
    found = list(val_txts[:1])
    for val_txt in val_txts[1:]:
        with contextlib.suppress(PivotNetError):
            split_tokens(val_txt, gt_dir)
            found.append(val_txt)
    if left := [Path(val_txt).stem for val_txt in val_txts if val_txt not in found]:
        print(f"not evaluated, as samples of them are not annotated in {gt_dir}: {', '.join(left)}")
    return found
