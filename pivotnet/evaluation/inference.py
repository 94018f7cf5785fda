"""Runs a network over samples: polylines one after the other, or result files and the AP of a split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import BatchSampler

from pivotnet import heartbeat
from pivotnet.annotation.npz import is_whole
from pivotnet.config import Config
from pivotnet.console import progress
from pivotnet.data.dataset import build_loader
from pivotnet.distributed import Ranks, agreed, gather_objects
from pivotnet.evaluation import results
from pivotnet.evaluation.ap import ApResult
from pivotnet.evaluation.postprocess import draw_mask, postprocess
from pivotnet.evaluation.score import format_table, score_results, write_table
from pivotnet.files import PathLike


@dataclass
class Predictor:
    """A network, and how samples reach it."""

    model: nn.Module  # not wrapped for distribution
    config: Config
    device: torch.device  # where the model is
    data_root: PathLike  # annotated nuScenes tree
    batch_size: int = 1
    workers: int | None = None  # processes that load, and that score; chosen by default
    ranks: Ranks = Ranks()  # every rank predicts its share of the samples

    def predict(self, tokens: Sequence[str]) -> Iterator[tuple[str, results.MapInstances]]:
        """Token and polylines of this rank's share of ``tokens``; the model is left in the mode in which it was. Raises
        PivotNetError: a sample cannot be read, or the network predicts NaN."""
        ranks = self.ranks
        loader = build_loader(
            self.config,
            self.data_root,
            list(tokens),
            sampler=BatchSampler(range(ranks.rank, len(tokens), ranks.world_size), self.batch_size, drop_last=False),
            with_targets=False,
            workers=self.workers,
            device=self.device,
            local_ranks=ranks.local_world_size,
        )
        training = self.model.training
        self.model.eval()
        try:
            for batch in progress(loader, "predict", len(loader), not ranks.main):
                heartbeat.alive()
                # no_grad around the call, not around the yield: the caller's code runs in between
                with torch.no_grad():
                    moved = batch.to(self.device, non_blocking=True)
                    inputs = moved.images, moved.reference_points, moved.reference_valid
                    instances = postprocess(self.model(*inputs, final_only=True), self.config.map)
                yield from zip(batch.tokens, instances)
        finally:
            self.model.train(training)

    def evaluate(
        self,
        checkpoint: PathLike,
        tokens: Sequence[str],
        folder: PathLike,
        say: Callable[[str], None] = print,
        layout: str = results.FORMATS[0],
    ) -> ApResult | None:
        """Predict those of ``tokens`` (at least one) that have no result file in ``folder`` yet, and score all of them.
        Every rank calls this and must see the same folder. Results are kept for the same ``checkpoint``, which holds
        the weights.

        Returns the AP in the main rank, None in the others. Raises CollectiveError: ``folder`` holds results of another
        checkpoint, or a sample cannot be predicted; PivotNetError: see ``score_results``.
        """
        left: list[str] = []
        with agreed(self.ranks):
            if self.ranks.main:  # one rank looks before any rank writes
                results.open_folder(folder, checkpoint, self.config.name, layout)
                left = [token for token in tokens if not is_whole(results.result_path(folder, token))]
                if len(left) < len(tokens):
                    done = len(tokens) - len(left)
                    say(f"{done} of {len(tokens)} samples have results in {folder}; predicting the rest")
        left = gather_objects(left, self.ranks)[0]
        with agreed(self.ranks):
            for token, instances in self.predict(left):
                mask = draw_mask(instances, self.config.map)
                results.save_result(results.result_path(folder, token), mask, instances, layout)
        if not self.ranks.main:
            return None
        return score_results(folder, self.data_root, tokens, self.config.map.resolution, self.workers)


def evaluate_splits(
    predictor: Predictor, checkpoint: PathLike, splits: Mapping[str, Sequence[str]], say: Callable[[str], None]
) -> dict[str, Any]:
    """Score some splits {name: tokens} in the checkpoint's own folder of results; every rank calls this. Returns {name:
    ``table_dict``} in the main rank, where ``say`` prints the tables, {} in the others."""
    tables = {}
    folder = results.results_folder(checkpoint)
    for name, tokens in splits.items():
        result = predictor.evaluate(checkpoint, tokens, folder, say)
        if result is not None:
            tables[name] = write_table(folder / f"ap_{name}.json", result, name, folder)
            say(f"{name} split, {len(tokens)} samples:\n{format_table(result.ap)}")
    return tables
