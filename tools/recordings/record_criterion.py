"""Record upstream's loss, matching and post-processing."""

from __future__ import annotations

import copy
import importlib
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recordings import inputs, shim

PDM_SHAPES = (
    (2, 2), (2, 10), (3, 3), (3, 10), (4, 10), (5, 10), (7, 10), (9, 10), (10, 10), (2, 30), (3, 30), (5, 30),
    (8, 30), (12, 30), (17, 30), (22, 30), (27, 30), (29, 30), (30, 30), (6, 7), (4, 4), (5, 6), (3, 5), (2, 3),
    (10, 12), (15, 15), (11, 30), (20, 30), (6, 10), (8, 8),
)  # fmt: skip
SEQ_SHAPES = ((1, 2), (5, 2), (40, 10), (24, 10), (12, 30), (60, 30), (7, 5), (30, 10))


def post_processor() -> torch.nn.Module:
    """Upstream's criterion and post-processing of the pivot presets."""
    heads = importlib.import_module("mapmaster.models.output_head")
    return heads.PivotMapPostProcessor(**shim.model_setup("swint")["post_processor"]["net_kwargs"])


def as_targets(target: dict[str, Any]) -> dict[str, Any]:
    """A target as upstream's data loader collates it for a batch of one."""
    return {
        "masks": torch.from_numpy(target["masks"])[None],
        "points": {c: torch.from_numpy(points)[None] for c, points in target["points"].items()},
        "valid_len": {c: torch.from_numpy(lengths)[None] for c, lengths in target["valid_len"].items()},
    }


def record_loss(seed: int, mask_step: int) -> dict[str, np.ndarray]:
    """golden_loss.npz: totals, terms, matchings and gradients of all cases; every ``mask_step``-th pixel of masks'."""
    record: dict[str, np.ndarray] = {"seed": np.int64(seed)}
    processor = post_processor().train()
    for case in inputs.CASES:
        target = inputs.target(seed, case)
        for cls in range(3):
            record[f"{case}/points{cls}"] = target["points"][cls]
            record[f"{case}/valid_len{cls}"] = target["valid_len"][cls]
        record[f"{case}/masks"] = target["masks"]
        outputs = {
            name: [[torch.from_numpy(array).requires_grad_() for array in row] for row in rows]
            for name, rows in inputs.outputs(seed, case).items()
        }
        matches: list[Any] = []
        handle = processor.criterion.matcher.register_forward_hook(_keeper(matches))
        total, terms = processor(outputs, as_targets(target))
        handle.remove()
        total.backward()
        record[f"{case}/total"] = np.float64(total.item())
        record[f"{case}/total_f32"] = total.detach().numpy()
        for name, value in terms.items():
            record[f"{case}/loss/{name}"] = np.float64(float(value))
        for cls, masks in enumerate(processor.refactor_targets(as_targets(copy.deepcopy(target)))[0]["ins_masks"]):
            record[f"{case}/gt_mask_sum{cls}"] = masks.sum((1, 2)).numpy() if len(masks) else np.zeros(0, np.float32)
            if case == "overdrawn" and cls == 0:
                record[f"{case}/gt_ins_masks0"] = masks.numpy().astype(np.uint8)
        for i, row in enumerate(matches[0]):
            for j, ((dt, gt),) in enumerate(row):
                record[f"{case}/match_dt/{i}/{j}"], record[f"{case}/match_gt/{i}/{j}"] = dt.numpy(), gt.numpy()
        for name, rows in outputs.items():
            step = mask_step if name.endswith("masks") else 1
            for i, row in enumerate(rows):
                for j, tensor in enumerate(row):
                    record[f"{case}/grad/{name}/{i}/{j}"] = _gradient(tensor, step)
    return record


def _keeper(results: list[Any]) -> Any:
    """A forward hook that appends what the module returned."""
    return lambda module, arguments, output: results.append(output)


def _gradient(tensor: Tensor, step: int) -> np.ndarray:
    """Gradient of an output, of every ``step``-th row and column."""
    gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
    return gradient[..., ::step, ::step].numpy() if step > 1 else gradient.numpy()


def record_matching(seed: int) -> dict[str, np.ndarray]:
    """golden_matching.npz: pivot dynamic matching and sequence matching, ties included."""
    matching = importlib.import_module("mapmaster.models.output_head.line_matching")
    record: dict[str, np.ndarray] = {"seed": np.int64(seed)}
    for index, (m, n) in enumerate(PDM_SHAPES):
        cost = inputs.generator(seed, "pdm", index).random((m, n)).astype(np.float32)
        if index % 3 == 2:
            cost = (cost * 4).round() / np.float32(4)  # ties
        total, match = matching.pivot_dynamic_matching(cost)
        record[f"pdm/{index}/cost"], record[f"pdm/{index}/total"] = cost, np.float64(total)
        record[f"pdm/{index}/match"] = np.array(match, dtype=np.int64)
    for index, (count, n) in enumerate(SEQ_SHAPES):
        rng = inputs.generator(seed, "seq", index)
        lengths = rng.integers(2, n + 1, count)
        cost = rng.random((count, n, n)) * (np.arange(n)[None, :, None] < lengths[:, None, None])
        record[f"seq/{index}/cost"], record[f"seq/{index}/lens"] = cost, lengths
        for weight in (0, 5):
            record[f"seq/{index}/coe{weight}"] = matching.seq_matching_dist_parallel(cost.copy(), lengths, weight)
    record["notes"] = np.array(json.dumps({"ties": "every third pdm cost is rounded to quarters"}))
    return record


def record_postprocess(seed: int) -> dict[str, np.ndarray]:
    """golden_postprocess.npz: instances and masks of three random outputs."""
    record: dict[str, np.ndarray] = {"seed": np.int64(seed)}
    processor = post_processor().eval()
    for index in range(3):
        outputs = inputs.outputs(seed, f"post{index}")
        shift_objects(outputs, index)
        tensors = {name: [[torch.from_numpy(a) for a in row] for row in rows] for name, rows in outputs.items()}
        (result,), (masks,) = processor(tensors)
        record[f"{index}/dt_masks"] = masks
        record[f"{index}/scores"] = np.array(result["confidence_level"], dtype=np.float64)
        record[f"{index}/labels"] = np.array(result["pred_label"], dtype=np.int64)
        lines = [np.zeros((0, 2), np.float32) if line is None else line for line in result["map"]]
        record[f"{index}/n_points"] = np.array([len(line) for line in lines], dtype=np.int64)
        record[f"{index}/points"] = np.concatenate(lines).astype(np.float32)
    return record


def shift_objects(outputs: dict[str, list[list[np.ndarray]]], index: int) -> None:
    """Make more instances win in the second output, and nearly all or none in the third, by class. In place."""
    shifts = {0: (0.0, 0.0, 0.0), 1: (0.6, 0.6, 0.6), 2: (20.0, -20.0, 20.0)}[index]
    for cls, shift in enumerate(shifts):
        outputs["obj_logits"][-1][cls][..., 0] += np.float32(shift)
