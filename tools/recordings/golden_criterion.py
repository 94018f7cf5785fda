"""Recordings of upstream's criterion: losses and gradients, matching, post-processing."""

from __future__ import annotations

import copy
import importlib
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pivotnet.config import preset
from pivotnet.criterion.criterion import TERMS, Criterion, CriterionResult
from pivotnet.criterion.sequence import match_points, sequence_costs
from pivotnet.data.targets import build_targets
from pivotnet.evaluation.postprocess import draw_mask, postprocess
from pivotnet.structures import Predictions
from recordings import inputs, shim
from recordings.comparison import Comparison

# Upstream keeps target points in float64, we in float32 (NPUs have no fast float64): 6e-8 of a point coordinate.
TOTAL_RELATIVE, TERM_RELATIVE = 1e-6, 2e-6
# The same rounding in gradients, whose sums run over up to 80000 mask pixels and 450 points in another order.
GRADIENT_LARGEST, GRADIENT_EACH = 2e-6, 1e-5
# Sums of up to 30 float64 distances in another order.
MATCHING_EACH = 1e-14
# Softmax of another order of operations.
SCORE_ABSOLUTE = 1.2e-7

# upstream's name of an output: our field of Predictions
FIELDS = {
    "obj_logits": "object_logits",
    "ins_masks": "masks",
    "ctr_im": "points",
    "pts_logits": "point_logits",
    "sem_masks": "semantic_logits",
}
OF_POINTS, OF_PIXELS = ("ctr_im", "pts_logits"), ("ins_masks", "sem_masks")
MASK_STEP = 8  # recorders keep every so many-th row and column of masks and their gradients
# rows and columns of the costs of pivot dynamic matching; every third one is rounded to quarters, so that paths tie
PATH_SHAPES = (
    (2, 2), (2, 10), (3, 3), (3, 10), (4, 10), (5, 10), (7, 10), (9, 10), (10, 10), (2, 30), (3, 30), (5, 30),
    (8, 30), (12, 30), (17, 30), (22, 30), (27, 30), (29, 30), (30, 30), (6, 7), (4, 4), (5, 6), (3, 5), (2, 3),
    (10, 12), (15, 15), (11, 30), (20, 30), (6, 10), (8, 8),
)  # fmt: skip
SEQUENCE_SHAPES = ((1, 2), (5, 2), (40, 10), (24, 10), (12, 30), (60, 30), (7, 5), (30, 10))
END_WEIGHTS = (0, 5)

Outputs = dict[str, list[list[Tensor]]]  # as upstream has them: by name [decoder][class], each of one batch


def flat(outputs: Outputs) -> dict[str, Tensor]:
    """Upstream's lists under the keys of the recordings, name/decoder/class."""
    return {
        f"{name}/{i}/{label}": tensor
        for name, rows in outputs.items()
        for i, row in enumerate(rows)
        for label, tensor in enumerate(row)
    }


def as_tensors(outputs: dict[str, list[list[np.ndarray]]], requires_grad: bool = False) -> Outputs:
    """Drawn outputs as leaves."""
    return {
        name: [[torch.from_numpy(array).requires_grad_(requires_grad) for array in row] for row in rows]
        for name, rows in outputs.items()
    }


def join_classes(outputs: Outputs) -> Predictions:
    """Upstream's lists as our joined tensors."""

    def joined(name: str, row: list[Tensor]) -> Tensor:
        if name == "sem_masks":
            return torch.stack(row, dim=1)
        return torch.cat([part.flatten(1, 2) if name in OF_POINTS else part for part in row], dim=1)

    return Predictions(
        **{field: torch.stack([joined(name, row) for row in outputs[name]]) for name, field in FIELDS.items()}
    )


def split_classes(
    predictions: Predictions, queries: tuple[int, ...] = inputs.QUERIES, points: tuple[int, ...] = inputs.MAX_POINTS
) -> Outputs:
    """Our joined tensors as upstream's lists; the inverse of ``join_classes``."""

    def split(name: str, row: Tensor) -> list[Tensor]:
        if name == "sem_masks":  # [B, C, 2, H, W]
            return list(row.unbind(1))
        if name not in OF_POINTS:  # [B, Q, ...]
            return list(row.split(queries, dim=1))
        parts = row.split([q * p for q, p in zip(queries, points)], dim=1)  # of [B, T, 2]
        return [part.unflatten(1, sizes) for part, sizes in zip(parts, zip(queries, points))]

    return {name: [split(name, row) for row in getattr(predictions, field)] for name, field in FIELDS.items()}


def subsampled(key: str, tensor: Tensor, step: int = MASK_STEP) -> Tensor:
    """Every ``step``-th row and column, if the output of this key has pixels."""
    return tensor[..., ::step, ::step] if key.startswith(OF_PIXELS) else tensor


def kept_pixels(key: str, tensor: Tensor, recorded: Any) -> tuple[str, np.ndarray, np.ndarray]:
    """The key, the part of our tensor that was recorded (shapes tell the step of each axis), and the recorded array."""
    array, theirs = tensor.detach().numpy(), recorded[key]
    if theirs.ndim == array.ndim:
        steps = [max(1, math.ceil(have / max(kept, 1))) for have, kept in zip(array.shape, theirs.shape)]
        array = array[tuple(slice(None, None, step) for step in steps)]
    return key, array, theirs


def as_targets(target: dict[str, Any]) -> dict[str, Any]:
    """A target as upstream's data loader collates it for a batch of one; upstream's criterion changes it."""
    return {
        "masks": torch.from_numpy(target["masks"])[None],
        "points": {label: torch.from_numpy(points)[None] for label, points in target["points"].items()},
        "valid_len": {label: torch.from_numpy(lengths)[None] for label, lengths in target["valid_len"].items()},
    }


def flat_target(target: dict[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """A target under the keys of the recordings."""
    by_class = {f"{prefix}{name}{label}": target[name][label] for name in ("points", "valid_len") for label in range(3)}
    return {f"{prefix}masks": target["masks"], **by_class}


def recorded_sample(recorded: Any, prefix: str = "") -> tuple[np.ndarray, dict[int, np.ndarray], dict[int, np.ndarray]]:
    """A recorded target as ``build_targets`` takes it."""
    points, lengths = (
        {label: recorded[f"{prefix}{name}{label}"] for label in range(3)} for name in ("points", "valid_len")
    )
    return recorded[f"{prefix}masks"], points, lengths


def post_processor() -> nn.Module:
    """Upstream's criterion and post-processing of the pivot presets."""
    heads = importlib.import_module("mapmaster.models.output_head")
    return heads.PivotMapPostProcessor(**shim.model_setup("swint")["post_processor"]["net_kwargs"])


def record_loss(seed: int) -> dict[str, np.ndarray]:
    """golden_loss.npz: totals, terms, matchings and gradients of all cases."""
    record: dict[str, np.ndarray] = {"seed": np.int64(seed)}
    processor = post_processor().train()
    for case in inputs.CASES:
        target = inputs.target(seed, case)
        record |= flat_target(target, f"{case}/")
        outputs = as_tensors(inputs.outputs(seed, case), requires_grad=True)
        matches: list[Any] = []
        handle = processor.criterion.matcher.register_forward_hook(lambda *call, kept=matches: kept.append(call[-1]))
        total, terms = processor(outputs, as_targets(target))
        handle.remove()
        total.backward()
        record[f"{case}/total"] = np.float64(total.item())
        for name, value in terms.items():
            record[f"{case}/loss/{name}"] = np.float64(float(value))
        for label, masks in enumerate(processor.refactor_targets(as_targets(copy.deepcopy(target)))[0]["ins_masks"]):
            record[f"{case}/gt_mask_sum{label}"] = masks.sum((1, 2)).numpy() if len(masks) else np.zeros(0, np.float32)
            if case == "overdrawn" and label == 0:
                record[f"{case}/gt_ins_masks0"] = masks.numpy().astype(np.uint8)
        for i, row in enumerate(matches[0]):
            for label, ((dt, gt),) in enumerate(row):
                record[f"{case}/match_dt/{i}/{label}"], record[f"{case}/match_gt/{i}/{label}"] = dt.numpy(), gt.numpy()
        for key, tensor in flat(outputs).items():
            gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            record[f"{case}/grad/{key}"] = subsampled(key, gradient).numpy()
    return record


def check_loss(path: Path) -> list[Comparison]:
    """golden_loss.npz: totals, terms, matching indices, gradients, redrawn masks."""
    recorded = np.load(path, allow_pickle=False)
    config = preset("swint")
    total = Comparison("loss: total", relative=TOTAL_RELATIVE)
    terms = Comparison("loss: terms", relative=TERM_RELATIVE)
    matches = Comparison("loss: matching indices")
    masks = Comparison("loss: target masks")
    gradients = {
        name: Comparison(f"loss: gradient of {name}", relative=GRADIENT_LARGEST, each=GRADIENT_EACH) for name in FIELDS
    }
    for case in sorted({key.split("/")[0] for key in recorded.files if "/" in key}):
        targets = build_targets([recorded_sample(recorded, f"{case}/")], config)
        outputs = as_tensors(inputs.outputs(int(recorded["seed"]), case), requires_grad=True)
        result = Criterion(config)(join_classes(outputs), targets)
        result.total.backward()
        total.add(case, result.total.item(), recorded[f"{case}/total"])
        for name in TERMS:
            terms.add(f"{case}/{name}", float(result.terms[name]), recorded[f"{case}/loss/{name}"])
        for i, label in itertools.product(range(inputs.DECODERS), range(3)):
            for side, ours in zip(("dt", "gt"), _pairs(result, i, label)):
                matches.add(f"{case}/{i}/{label}", ours, recorded[f"{case}/match_{side}/{i}/{label}"])
        for label in range(3):
            count = int(targets.counts[0, label])
            drawn, padding = targets.masks[0, label, :count], targets.masks[0, label, count:]
            masks.add(f"{case}/{label}", drawn.sum((1, 2)), recorded[f"{case}/gt_mask_sum{label}"])
            masks.require(f"{case}/{label}: padding is not empty", not padding.any())
            if f"{case}/gt_ins_masks{label}" in recorded:
                masks.add(f"{case}/{label}", drawn, recorded[f"{case}/gt_ins_masks{label}"])
        for key, tensor in flat(outputs).items():
            gradients[key.split("/")[0]].add(*kept_pixels(f"{case}/grad/{key}", tensor.grad, recorded))
        del outputs, targets, result  # before the next case is made: memory
    return [total, terms, matches, masks, *gradients.values()]


def _pairs(result: CriterionResult, decoder: int, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Matched (queries, instances) of one decoder and class, by ascending query as upstream lists them."""
    found = result.matches[label]
    chosen = np.flatnonzero(found.decoder == decoder)
    order = chosen[np.argsort(found.query[chosen])]
    return found.query[order], found.instance[order]


def record_matching(seed: int) -> dict[str, np.ndarray]:
    """golden_matching.npz: pivot dynamic matching and sequence matching, ties included."""
    matching = importlib.import_module("mapmaster.models.output_head.line_matching")
    record: dict[str, np.ndarray] = {"seed": np.int64(seed)}
    for index, shape in enumerate(PATH_SHAPES):
        cost = inputs.generator(seed, "pdm", index).random(shape).astype(np.float32)
        if index % 3 == 2:
            cost = (cost * 4).round() / np.float32(4)
        total, match = matching.pivot_dynamic_matching(cost)
        record[f"pdm/{index}/cost"], record[f"pdm/{index}/total"] = cost, np.float64(total)
        record[f"pdm/{index}/match"] = np.array(match, dtype=np.int64)
    for index, (count, n) in enumerate(SEQUENCE_SHAPES):
        rng = inputs.generator(seed, "seq", index)
        lengths = rng.integers(2, n + 1, count)
        cost = rng.random((count, n, n)) * (np.arange(n)[None, :, None] < lengths[:, None, None])
        record[f"seq/{index}/cost"], record[f"seq/{index}/lens"] = cost, lengths
        for weight in END_WEIGHTS:
            record[f"seq/{index}/coe{weight}"] = matching.seq_matching_dist_parallel(cost.copy(), lengths, weight)
    return record


def check_matching(path: Path) -> list[Comparison]:
    """golden_matching.npz: pivot dynamic matching, each pair alone and many at once, and sequence matching."""
    recorded = np.load(path, allow_pickle=False)
    sums = Comparison("matching: pivot dynamic matching, cost", each=MATCHING_EACH)
    paths = Comparison("matching: pivot dynamic matching, path")
    sequences = Comparison("matching: sequence cost", each=MATCHING_EACH)
    names = sorted({key.rpartition("/")[0] for key in recorded.files if "/" in key})
    costs = {name: recorded[f"{name}/cost"] for name in names if name.startswith("pdm/")}
    widest = max(cost.shape[1] for cost in costs.values())
    together = [name for name, cost in costs.items() if cost.shape[1] == widest]
    for group in (*([name] for name in costs), together):
        lengths = np.array([len(costs[name]) for name in group])
        # lines of different lengths side by side are padded with numbers that must not matter
        padded = np.random.default_rng(0).random((lengths.max(), costs[group[0]].shape[1], len(group)), np.float32)
        for k, name in enumerate(group):
            padded[: lengths[k], :, k] = costs[name]
        totals, found = match_points(padded, lengths)
        for name, total, path_found, length in zip(group, totals, found, lengths):
            sums.add(name, total, recorded[f"{name}/total"])
            paths.add(name, path_found[:length], recorded[f"{name}/match"])
            paths.require(f"{name}: padding is matched", bool((path_found[length:] == padded.shape[1] - 1).all()))
    for name in names:
        for weight in END_WEIGHTS if name.startswith("seq/") else ():
            ours = sequence_costs(recorded[f"{name}/cost"].transpose(1, 2, 0), recorded[f"{name}/lens"], weight)
            sequences.add(f"{name}, end weight {weight}", ours, recorded[f"{name}/coe{weight}"])
    return [sums, paths, sequences]


def _outputs_to_process(seed: int, index: int) -> Outputs:
    """Random outputs; more instances win in the second ones, and nearly all or none in the third, by class."""
    outputs = as_tensors(inputs.outputs(seed, f"post{index}"))
    for label, shift in enumerate(((0.0, 0.0, 0.0), (0.6, 0.6, 0.6), (20.0, -20.0, 20.0))[index]):
        outputs["obj_logits"][-1][label][..., 0] += shift
    return outputs


def record_postprocess(seed: int) -> dict[str, np.ndarray]:
    """golden_postprocess.npz: instances and masks of three random outputs."""
    record: dict[str, np.ndarray] = {"seed": np.int64(seed)}
    processor = post_processor().eval()
    for index in range(3):
        (result,), (masks,) = processor(_outputs_to_process(seed, index))
        record[f"{index}/dt_masks"] = masks
        record[f"{index}/scores"] = np.array(result["confidence_level"], dtype=np.float64)
        record[f"{index}/labels"] = np.array(result["pred_label"], dtype=np.int64)
        lines = [np.zeros((0, 2), np.float32) if line is None else line for line in result["map"]]
        record[f"{index}/n_points"] = np.array([len(line) for line in lines], dtype=np.int64)
        record[f"{index}/points"] = np.concatenate(lines).astype(np.float32)
    return record


def check_postprocess(path: Path) -> list[Comparison]:
    """golden_postprocess.npz: polylines, scores, labels and masks."""
    recorded = np.load(path, allow_pickle=False)
    map_config = preset("swint").map
    points = Comparison("post-processing: points")
    scores = Comparison("post-processing: scores", absolute=SCORE_ABSOLUTE)
    labels = Comparison("post-processing: labels, point counts")
    masks = Comparison("post-processing: masks")
    for index in range(3):
        (instances,) = postprocess(join_classes(_outputs_to_process(int(recorded["seed"]), index)), map_config)
        # upstream's lists begin with a placeholder
        labels.add(f"{index}/labels", instances.labels + 1, recorded[f"{index}/labels"][1:])
        labels.add(f"{index}/n_points", [len(line) for line in instances.points], recorded[f"{index}/n_points"][1:])
        scores.add(str(index), instances.scores, recorded[f"{index}/scores"][1:])
        joined = np.concatenate(instances.points) if len(instances) else np.zeros((0, 2), np.float32)
        points.add(str(index), joined, recorded[f"{index}/points"])
        mask = draw_mask(instances, map_config)
        masks.add(str(index), mask, recorded[f"{index}/dt_masks"])
        masks.require(f"{index}: a mask of {mask.dtype}", mask.dtype == np.uint8)
    return [points, scores, labels, masks]
