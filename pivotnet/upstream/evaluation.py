"""The evaluator that tools/evaluation/eval.py runs: result files against annotations, over the cores of the machine."""

from __future__ import annotations

from pathlib import Path

from pivotnet.evaluation.ap_table import format_table, table_dict
from pivotnet.evaluation.results import result_path
from pivotnet.evaluation.score import score_files
from pivotnet.files import PathLike
from pivotnet.upstream.performance import add_evaluation
from pivotnet.upstream.samples import split_tokens
from pivotnet.upstream.settings import require


class ResultEvaluator:
    """Average precision of the result files in ``dt_dir`` against the annotated samples in ``gt_dir``.

    Args:
        val_txt: tokens, one a line; see ``split_tokens`` for a data set that is not all of nuScenes.
        batch_size: upstream's; the cores decide here.
        map_resolution: metres a pixel, rows and columns.
    """

    def __init__(
        self,
        gt_dir: PathLike,
        dt_dir: PathLike,
        val_txt: PathLike,
        batch_size: int = 4,
        num_classes: int = 3,
        map_resolution: tuple[float, float] = (0.15, 0.15),
    ) -> None:
        row, column = map_resolution
        given = {"num_classes": num_classes, "map_resolution": column}
        require("the evaluator", given, {"num_classes": 3, "map_resolution": row})
        self.split = Path(val_txt).stem
        tokens = split_tokens(val_txt, gt_dir)
        self.resolution = row
        self.pairs = [(result_path(dt_dir, token), Path(gt_dir) / f"{token}.npz") for token in tokens]

    def execute(self) -> None:
        """Print upstream's table, and add it to the summary of the run in PIVOTNET_OUTPUT if there is one.

        Raises:
            PivotNetError: a file is missing or damaged.
        """
        # eval.py guards no main module, which spawned processes would run again; and it holds no device.
        result = score_files(self.pairs, self.resolution, start_method="fork")
        print(format_table(result.ap))
        add_evaluation(self.split, table_dict(result))
