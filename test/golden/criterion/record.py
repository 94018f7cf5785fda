"""Record upstream's criterion: ``PYTHONPATH=.:tools:test/golden python test/golden/criterion/record.py UPSTREAM``.

matching.npz: sequence matching and pivot dynamic matching on random costs, every third one with many ties.
loss.npz: totals, terms, matched indices and gradients of upstream's post-processor on the inputs of small.py.
"""

from __future__ import annotations

import copy
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from criterion import small
from recordings import shim
from recordings.inputs import generator
from recordings.record_criterion import as_targets

HERE = Path(__file__).parent


def post_processor() -> torch.nn.Module:
    """Upstream's criterion for the map of small.py."""
    settings = shim.model_setup("swint")["post_processor"]["net_kwargs"]
    settings["map_conf"].update(map_size=small.MAP.map_size, line_width=small.MAP.mask_thickness)
    return importlib.import_module("mapmaster.models.output_head").PivotMapPostProcessor(**settings).train()


def record_loss() -> dict[str, np.ndarray]:
    """Keys <case>/ with masks, points<c>, valid_len<c>; total, loss/<term>; gt_mask_sum<c> (pixels of each instance);
    match_dt/<i>/<c>, match_gt/<i>/<c>; grad/<name>/<i>/<c>."""
    record: dict[str, np.ndarray] = {}
    processor = post_processor()
    for case in small.CASES:
        target = small.target(case)
        record[f"{case}/masks"] = target["masks"]
        for c in range(3):
            record[f"{case}/points{c}"], record[f"{case}/valid_len{c}"] = target["points"][c], target["valid_len"][c]
        outputs = {
            name: [[torch.from_numpy(array).requires_grad_() for array in row] for row in rows]
            for name, rows in small.outputs(case, target["masks"], target["points"]).items()
        }
        total, terms = processor(outputs, as_targets(copy.deepcopy(target)))
        total.backward()
        record[f"{case}/total"] = np.float64(total.item())
        for name, value in terms.items():
            record[f"{case}/loss/{name}"] = np.float64(float(value))
        targets = processor.refactor_targets(as_targets(copy.deepcopy(target)))
        for c, masks in enumerate(targets[0]["ins_masks"]):
            record[f"{case}/gt_mask_sum{c}"] = masks.sum((1, 2)).numpy() if len(masks) else np.zeros(0, np.float32)
        matches = processor.criterion.matcher(outputs, targets)
        for i, row in enumerate(matches):
            for c, ((dt, gt),) in enumerate(row):
                record[f"{case}/match_dt/{i}/{c}"], record[f"{case}/match_gt/{i}/{c}"] = dt.numpy(), gt.numpy()
        for name, rows in outputs.items():
            for i, tensors in enumerate(rows):
                for c, tensor in enumerate(tensors):
                    record[f"{case}/grad/{name}/{i}/{c}"] = _gradient(name, tensor)
    return record


def _gradient(name: str, tensor: torch.Tensor) -> np.ndarray:
    assert tensor.grad is not None
    return (tensor.grad[..., :: small.KEPT, :: small.KEPT] if name.endswith("masks") else tensor.grad).numpy()


def record_matching() -> dict[str, np.ndarray]:
    """Keys pdm/<k>/{cost, total, match} and seq/<k>/{cost, lens, coe0, coe5}."""
    matching: Any = importlib.import_module("mapmaster.models.output_head.line_matching")
    record: dict[str, np.ndarray] = {}
    for k, (m, n) in enumerate([(2, 2), (2, 10), (5, 10), (10, 10), (7, 30), (21, 30), (29, 30), (30, 30), (4, 6)]):
        cost = _costs(k, (m, n))
        total, match = matching.pivot_dynamic_matching(cost)
        record[f"pdm/{k}/cost"], record[f"pdm/{k}/total"] = cost, np.float64(total)
        record[f"pdm/{k}/match"] = np.array(match, np.int64)
    for k, (count, n) in enumerate([(5, 2), (40, 10), (12, 30), (9, 5)]):
        lengths = generator("small", "lengths", k).integers(2, n + 1, count)
        cost = _costs(k, (count, n, n)) * (np.arange(n)[None, :, None] < lengths[:, None, None])
        record[f"seq/{k}/cost"], record[f"seq/{k}/lens"] = cost, lengths
        for weight in (0, 5):
            record[f"seq/{k}/coe{weight}"] = matching.seq_matching_dist_parallel(
                cost.astype(np.float64), lengths, weight
            )
    return record


def _costs(k: int, shape: tuple[int, ...]) -> np.ndarray:
    cost = generator("small", "cost", k, len(shape)).random(shape).astype(np.float32)
    return (cost * 4).round() / np.float32(4) if k % 3 == 2 else cost


if __name__ == "__main__":
    shim.import_upstream(Path(sys.argv[1]))
    np.savez_compressed(HERE / "matching.npz", **record_matching())
    np.savez_compressed(HERE / "loss.npz", **record_loss())
