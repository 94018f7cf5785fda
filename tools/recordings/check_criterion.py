"""Compare our criterion, matching and post-processing with the recordings."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pivotnet.config import preset
from pivotnet.criterion.criterion import TERMS, Criterion, CriterionResult
from pivotnet.criterion.sequence import match_points, sequence_costs
from pivotnet.data.targets import build_targets
from pivotnet.evaluation.postprocess import draw_mask, postprocess
from pivotnet.structures import Predictions
from recordings import inputs
from recordings.record_criterion import shift_objects
from recordings.verdict import Comparison, Row

# Upstream keeps target points in float64, we in float32 (NPUs have no fast float64): 6e-8 of a point coordinate.
LOSS_RELATIVE = 2e-6
# The same rounding in gradients, whose sums run over up to 80000 mask pixels in another order.
GRADIENT_RELATIVE = 2e-5
# Sums of up to 30 float64 distances in another order.
MATCHING_ABSOLUTE = 1e-12
# Softmax of another order of operations.
SCORE_ABSOLUTE = 2e-7
# One float32 multiplication by the map size more or less: half a unit in the last place of a coordinate below 400.
POINT_ABSOLUTE = 4e-5


def predictions_from(outputs: dict[str, list[list[np.ndarray]]], requires_grad: bool = False) -> Predictions:
    """Upstream's lists [decoder][class] as our joined tensors."""

    def joined(name: str, flat: bool) -> Tensor:
        rows = [[array.reshape(1, -1, array.shape[-1]) if flat else array for array in row] for row in outputs[name]]
        tensor = torch.from_numpy(np.stack([np.concatenate(row, axis=1) for row in rows]))
        return tensor.requires_grad_(requires_grad)

    semantic = torch.from_numpy(np.stack([np.stack(row, axis=1) for row in outputs["sem_masks"]]))
    return Predictions(
        object_logits=joined("obj_logits", False),
        points=joined("ctr_im", True),
        point_logits=joined("pts_logits", True),
        masks=joined("ins_masks", False),
        semantic_logits=semantic.requires_grad_(requires_grad),
    )


def check_loss(path: Path) -> list[Row]:
    """golden_loss.npz: totals, terms, matching indices, gradients, redrawn masks."""
    recorded = np.load(path, allow_pickle=False)
    config = preset("swint")
    seed = int(recorded["seed"])
    total = Comparison("loss: total", relative=LOSS_RELATIVE)
    terms = Comparison("loss: terms", relative=LOSS_RELATIVE)
    matches = Comparison("loss: matching indices")
    masks = Comparison("loss: target masks")
    gradients = {name: Comparison(f"loss: gradient of {name}", relative=GRADIENT_RELATIVE) for name in _FIELDS}
    for case in sorted({key.split("/")[0] for key in recorded.files if "/" in key}):
        sample = (
            recorded[f"{case}/masks"],
            {c: recorded[f"{case}/points{c}"] for c in range(3)},
            {c: recorded[f"{case}/valid_len{c}"] for c in range(3)},
        )
        targets = build_targets([sample], config)
        predictions = predictions_from(inputs.outputs(seed, case), requires_grad=True)
        result = Criterion(config)(predictions, targets)
        result.total.backward()
        total.add(case, result.total.item(), recorded[f"{case}/total"])
        for name in TERMS:
            terms.add(f"{case}/{name}", float(result.terms[name]), recorded[f"{case}/loss/{name}"])
        for i in range(inputs.DECODERS):
            for j in range(3):
                for side, ours in zip(("dt", "gt"), _pairs(result, i, j)):
                    matches.add(f"{case}/{i}/{j}", ours, recorded[f"{case}/match_{side}/{i}/{j}"])
        for j in range(3):
            count = int(targets.counts[0, j])
            masks.add(f"{case}/{j}", targets.masks[0, j, :count].sum((1, 2)), recorded[f"{case}/gt_mask_sum{j}"])
            if f"{case}/gt_ins_masks{j}" in recorded:
                masks.add(f"{case}/{j}", targets.masks[0, j, :count], recorded[f"{case}/gt_ins_masks{j}"])
        for name, field in _FIELDS.items():
            _compare_gradient(gradients[name], case, name, getattr(predictions, field).grad, recorded)
    return [c.row() for c in (total, terms, matches, masks, *gradients.values())]


_FIELDS = {
    "obj_logits": "object_logits",
    "ins_masks": "masks",
    "ctr_im": "points",
    "pts_logits": "point_logits",
    "sem_masks": "semantic_logits",
}


def _pairs(result: CriterionResult, decoder: int, cls: int) -> tuple[np.ndarray, np.ndarray]:
    """Matched (queries, instances) of one decoder and class, by ascending query as upstream lists them."""
    found = result.matches[cls]
    chosen = np.flatnonzero(found.decoder == decoder)
    order = chosen[np.argsort(found.query[chosen])]
    return found.query[order], found.instance[order]


def _compare_gradient(comparison: Comparison, case: str, name: str, ours: Tensor, recorded) -> None:  # type: ignore
    split = split_classes(name, ours.numpy())
    for i, row in enumerate(split):
        for j, array in enumerate(row):
            theirs = recorded[f"{case}/grad/{name}/{i}/{j}"]
            step = math.ceil(array.shape[-1] / theirs.shape[-1]) if name.endswith("masks") else 1
            kept = array[..., ::step, ::step] if step > 1 else array
            comparison.add(f"{case}/{i}/{j}", kept, theirs)


def split_classes(name: str, joined: np.ndarray) -> list[list[np.ndarray]]:
    """One of our joined arrays as upstream's [decoder][class] list."""
    if name == "sem_masks":  # [E, B, C, 2, H, W]
        return [[row[:, j] for j in range(3)] for row in joined]
    sizes = [q * p if name in ("ctr_im", "pts_logits") else q for q, p in zip(inputs.QUERIES, inputs.MAX_POINTS)]
    result = []
    for row in joined:  # [B, Q or T, ...]
        parts = np.split(row, np.cumsum(sizes)[:-1], axis=1)
        if name in ("ctr_im", "pts_logits"):
            parts = [a.reshape(len(a), q, p, 2) for a, q, p in zip(parts, inputs.QUERIES, inputs.MAX_POINTS)]
        result.append(parts)
    return result


def check_matching(path: Path) -> list[Row]:
    """golden_matching.npz: pivot dynamic matching and sequence matching."""
    recorded = np.load(path, allow_pickle=False)
    sums = Comparison("matching: pivot dynamic matching, cost", absolute=MATCHING_ABSOLUTE)
    paths = Comparison("matching: pivot dynamic matching, path")
    for index in range(sum(key.startswith("pdm/") and key.endswith("/cost") for key in recorded.files)):
        cost = recorded[f"pdm/{index}/cost"]
        total, path_found = match_points(cost[:, :, None], np.array([len(cost)]))
        sums.add(str(index), total[0], recorded[f"pdm/{index}/total"])
        paths.add(str(index), path_found[0], recorded[f"pdm/{index}/match"])
    sequences = Comparison("matching: sequence cost", absolute=MATCHING_ABSOLUTE)
    for index in range(sum(key.startswith("seq/") and key.endswith("/cost") for key in recorded.files)):
        cost = recorded[f"seq/{index}/cost"].transpose(1, 2, 0)
        for weight in (0, 5):
            ours = sequence_costs(cost, recorded[f"seq/{index}/lens"], weight)
            sequences.add(f"{index}, end weight {weight}", ours, recorded[f"seq/{index}/coe{weight}"])
    return [sums.row(), paths.row(), sequences.row()]


def check_postprocess(path: Path) -> list[Row]:
    """golden_postprocess.npz: polylines, scores, labels and masks."""
    recorded = np.load(path, allow_pickle=False)
    map_config = preset("swint").map
    points = Comparison("post-processing: points", absolute=POINT_ABSOLUTE)
    scores = Comparison("post-processing: scores", absolute=SCORE_ABSOLUTE)
    labels = Comparison("post-processing: labels, point counts")
    masks = Comparison("post-processing: masks")
    for index in range(3):
        outputs = inputs.outputs(int(recorded["seed"]), f"post{index}")
        shift_objects(outputs, index)
        (instances,) = postprocess(predictions_from(outputs), map_config)
        # upstream's lists begin with a placeholder
        labels.add(f"{index}/labels", instances.labels + 1, recorded[f"{index}/labels"][1:])
        labels.add(f"{index}/n_points", np.array([len(p) for p in instances.points]), recorded[f"{index}/n_points"][1:])
        scores.add(str(index), instances.scores, recorded[f"{index}/scores"][1:])
        joined = np.concatenate(instances.points) if len(instances) else np.zeros((0, 2), np.float32)
        points.add(str(index), joined, recorded[f"{index}/points"])
        masks.add(str(index), draw_mask(instances, map_config), recorded[f"{index}/dt_masks"])
    return [points.row(), scores.row(), labels.row(), masks.row()]
