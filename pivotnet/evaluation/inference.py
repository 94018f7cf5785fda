"""Runs a network over samples: from its output to polylines and masks, to result files and to the AP of a split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import BatchSampler

from pivotnet import heartbeat
from pivotnet.annotation.npz import is_whole
from pivotnet.config import Config, MapConfig
from pivotnet.console import progress
from pivotnet.data.dataset import build_loader
from pivotnet.data.targets import draw_line
from pivotnet.distributed import Ranks, agreed, gather_objects
from pivotnet.errors import PivotNetError
from pivotnet.evaluation import results
from pivotnet.evaluation.ap import ApResult
from pivotnet.evaluation.results import MapInstances
from pivotnet.evaluation.score import format_table, score_results, write_table
from pivotnet.files import PathLike
from pivotnet.structures import Predictions


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

    def predict(self, tokens: Sequence[str]) -> Iterator[tuple[str, MapInstances]]:
        """Token and polylines of this rank's share of ``tokens``; the model is left in the mode in which it was. Raises
        PivotNetError: a sample cannot be read, or the network predicts NaN."""
        ranks = self.ranks
        share = BatchSampler(range(ranks.rank, len(tokens), ranks.world_size), self.batch_size, drop_last=False)
        where: dict[str, Any] = {"device": self.device, "local_ranks": ranks.local_world_size, "workers": self.workers}
        loader = build_loader(self.config, self.data_root, list(tokens), sampler=share, with_targets=False, **where)
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
        the weights. Returns the AP in the main rank, None in the others. Raises CollectiveError: ``folder`` holds
        results of another checkpoint, or a sample cannot be predicted; PivotNetError: see ``score_results``."""
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


def postprocess(predictions: Predictions, map_config: MapConfig) -> list[MapInstances]:
    """Polylines of the last decoder's predictions, one MapInstances a sample. Raises PivotNetError: they are not
    finite. An instance counts when "object" is its likelier class. Of its points, those count that are pivots with a
    probability above one half, and the first and the last in any case."""
    last = [t[-1] for t in (predictions.object_logits, predictions.points, predictions.point_logits)]
    packed = torch.cat(last, dim=1).cpu()  # [B, Q + T + T, 2], in one copy
    if not torch.isfinite(packed).all():
        raise PivotNetError("the network predicts NaN or infinity: its training diverged; take an earlier checkpoint")
    queries, points = map_config.total_queries, map_config.total_points
    object_logits, coordinates, point_logits = packed.split([queries, points, points], dim=1)
    scores, winners = object_logits.softmax(-1).max(-1)  # [B, Q]; a tie goes to "object"
    pivots = point_logits.softmax(-1)[..., 1] > 0.5  # [B, T]
    pixels = coordinates.numpy() * np.array(map_config.map_size, np.float32)  # [B, T, 2]
    samples = zip((winners == 0).numpy(), scores.numpy(), pixels, pivots.numpy())
    return [_sample_instances(*sample, map_config) for sample in samples]


def _sample_instances(
    kept: np.ndarray, scores: np.ndarray, pixels: np.ndarray, pivots: np.ndarray, map_config: MapConfig
) -> MapInstances:
    """Cuts one sample's queries ([Q], [Q], [T, 2], [T]) into instances."""
    per_class = list(zip(map_config.num_queries, map_config.max_points))
    lengths = np.concatenate([[length] * queries for queries, length in per_class])  # [Q] points of each query
    labels = np.repeat(np.arange(len(per_class)), map_config.num_queries)  # [Q]
    ends = np.cumsum(lengths)
    pivots = pivots.copy()
    pivots[ends - lengths] = pivots[ends - 1] = True
    lines = [pixels[end - length : end][pivots[end - length : end]] for end, length in zip(ends[kept], lengths[kept])]
    return MapInstances(lines, scores[kept].astype(np.float32), labels[kept].astype(np.int64))


def draw_mask(instances: MapInstances, map_config: MapConfig) -> np.ndarray:
    """Instance ids drawn as lines, [C, rows, columns]: instance k has id k + 1, later ones overdraw earlier ones. The
    mask is uint8 as upstream's, and uint16 where there are more than 255 instances (upstream's ids saturate)."""
    dtype: type = np.uint8 if len(instances) <= np.iinfo(np.uint8).max else np.uint16
    mask: np.ndarray = np.zeros((len(map_config.num_queries), *map_config.map_size), dtype)
    for index, (points, label) in enumerate(zip(instances.points, instances.labels)):
        draw_line(mask[label], points, index + 1, map_config.result_thickness)
    return mask
