"""Recordings of upstream's criterion: losses and gradients, matching, post-processing."""

import copy
import importlib
import itertools
from collections import ChainMap
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pivotnet.config import preset
from pivotnet.criterion.criterion import TERMS, Criterion
from pivotnet.criterion.sequence import match_points, sequence_costs
from pivotnet.data.targets import build_targets
from pivotnet.evaluation.inference import draw_mask, postprocess
from pivotnet.structures import Predictions
from recordings import inputs, shim
from recordings.comparison import Comparison, compare

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


def flat(outputs: dict[str, list[list[Tensor]]]) -> dict[str, Tensor]:
    """Upstream's outputs, by name [decoder][class], under the keys of the recordings: name/decoder/class."""
    return {
        f"{name}/{i}/{label}": tensor
        for name, rows in outputs.items()
        for i, row in enumerate(rows)
        for label, tensor in enumerate(row)
    }


def nested(outputs: Mapping[str, Tensor]) -> dict[str, list[list[Tensor]]]:
    """The inverse of ``flat``."""
    found: dict[str, dict[str, list[Tensor]]] = {}
    for key, tensor in outputs.items():
        name, decoder, _ = key.split("/")
        found.setdefault(name, {}).setdefault(decoder, []).append(tensor)
    return {name: list(rows.values()) for name, rows in found.items()}


def as_predictions(outputs: Mapping[str, Any], prefix: str = "") -> Predictions:
    """Outputs under prefix/name/decoder/class as ours: classes joined, decoders stacked."""

    def joined(name: str, decoder: int) -> Tensor:
        classes = [torch.as_tensor(outputs[f"{prefix}{name}/{decoder}/{label}"]) for label in range(3)]
        if name == "sem_masks":
            return torch.stack(classes, dim=1)
        return torch.cat([one.flatten(1, 2) if name in OF_POINTS else one for one in classes], dim=1)

    decoders = {name: sum(f"{prefix}{name}/{i}/0" in outputs for i in range(inputs.DECODERS)) for name in FIELDS}
    rows = {FIELDS[name]: [joined(name, i) for i in range(count)] for name, count in decoders.items()}
    return Predictions(**{field: torch.stack(row) for field, row in rows.items()})


def rows_of(predictions: Predictions, prefix: str = "") -> dict[str, Tensor]:
    """Predictions under prefix/name/decoder."""
    fields = {name: getattr(predictions, field) for name, field in FIELDS.items()}
    return {f"{prefix}{name}/{i}": row for name, rows in fields.items() for i, row in enumerate(rows)}


def subsampled(key: str, tensor: Tensor) -> np.ndarray:
    """What is recorded of an output."""
    return (tensor[..., ::MASK_STEP, ::MASK_STEP] if key.startswith(OF_PIXELS) else tensor).detach().numpy()


def as_sample(target: Mapping[str, np.ndarray], prefix: str = "") -> Any:
    """A drawn or recorded target as ``build_targets`` takes it: mask, points and lengths by class."""
    points, lengths = ({c: target[f"{prefix}{name}{c}"] for c in range(3)} for name in ("points", "valid_len"))
    return target[f"{prefix}masks"], points, lengths


def as_targets(target: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A target as upstream's data loader collates it for a batch of one; upstream's criterion changes it."""
    masks, points, lengths = copy.deepcopy(as_sample(target))
    by_class = ({c: torch.from_numpy(array)[None] for c, array in arrays.items()} for arrays in (points, lengths))
    return dict(zip(("masks", "points", "valid_len"), (torch.from_numpy(masks)[None], *by_class)))


def post_processor() -> nn.Module:
    """Upstream's criterion and post-processing of the pivot presets."""
    heads = importlib.import_module("mapmaster.models.output_head")
    return heads.PivotMapPostProcessor(**shim.model_setup("swint")["post_processor"]["net_kwargs"])


def record_loss(seed: int) -> dict[str, np.ndarray]:
    """golden_loss.npz: totals, terms, matchings and gradients of all cases."""
    record: dict[str, np.ndarray] = {}
    processor = post_processor().train()
    for case in inputs.CASES:
        target = inputs.target(seed, case)
        record |= {f"{case}/{key}": array for key, array in target.items()}
        outputs = {key: torch.from_numpy(a).requires_grad_() for key, a in inputs.outputs(seed, case).items()}
        matches: list[Any] = []
        handle = processor.criterion.matcher.register_forward_hook(lambda *call, kept=matches: kept.append(call[-1]))
        total, terms = processor(nested(outputs), as_targets(target))
        handle.remove()
        total.backward()
        record[f"{case}/total"] = np.float64(total.item())
        for name, value in terms.items():
            record[f"{case}/loss/{name}"] = np.float64(float(value))
        for label, masks in enumerate(processor.refactor_targets(as_targets(target))[0]["ins_masks"]):
            record[f"{case}/gt_mask_sum{label}"] = masks.sum((1, 2)).numpy() if len(masks) else np.zeros(0, np.float32)
            if case == "overdrawn" and label == 0:
                record[f"{case}/gt_ins_masks0"] = masks.numpy().astype(np.uint8)
        for i, row in enumerate(matches[0]):
            for label, ((dt, gt),) in enumerate(row):
                record[f"{case}/match_dt/{i}/{label}"], record[f"{case}/match_gt/{i}/{label}"] = dt.numpy(), gt.numpy()
        for key, tensor in outputs.items():
            gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            record[f"{case}/grad/{key}"] = subsampled(key, gradient)
    return record


def check_loss(recorded: Mapping[str, np.ndarray]) -> list[Comparison]:
    config = preset("swint")
    groups = {
        "total": Comparison("loss: total", relative=TOTAL_RELATIVE),
        "loss/*": Comparison("loss: terms", relative=TERM_RELATIVE),
        "match_*": Comparison("loss: matching indices"),
        "gt_*": Comparison("loss: target masks"),
    }
    for name in FIELDS:
        groups[f"grad/{name}/*"] = Comparison(f"loss: gradient of {name}", 0, GRADIENT_LARGEST, GRADIENT_EACH)
    for case in sorted({key.split("/")[0] for key in recorded if "/" in key}):
        targets = build_targets([as_sample(recorded, f"{case}/")], config)
        predictions = as_predictions(inputs.outputs(int(recorded["seed"]), case))
        for field in FIELDS.values():
            getattr(predictions, field).requires_grad_()
        result = Criterion(config)(predictions, targets)
        result.total.backward()
        found = {"total": result.total, **{f"loss/{name}": result.terms[name] for name in TERMS}}
        for i, label in itertools.product(range(inputs.DECODERS), range(3)):
            own = result.matches[label]
            chosen = np.flatnonzero(own.decoder == i)
            order = chosen[np.argsort(own.query[chosen])]  # as upstream lists them
            found[f"match_dt/{i}/{label}"], found[f"match_gt/{i}/{label}"] = own.query[order], own.instance[order]
        for label in range(3):
            count = int(targets.counts[0, label])
            drawn, padding = targets.masks[0, label, :count], targets.masks[0, label, count:]
            groups["gt_*"].require(f"{case}/{label}: padding is not empty", not padding.any())
            found[f"gt_mask_sum{label}"] = drawn.sum((1, 2))
            if f"{case}/gt_ins_masks{label}" in recorded:
                found[f"gt_ins_masks{label}"] = drawn
        gradients = Predictions(**{field: getattr(predictions, field).grad for field in FIELDS.values()})
        found |= rows_of(gradients, "grad/")
        theirs = rows_of(as_predictions(recorded, f"{case}/grad/"), f"{case}/grad/")
        compare(groups, found, ChainMap(theirs, recorded), f"{case}/")
        del predictions, gradients, targets, result, found, theirs  # before the next case is made: memory
    return list(groups.values())


def record_matching(seed: int) -> dict[str, np.ndarray]:
    """golden_matching.npz: pivot dynamic matching and sequence matching, ties included."""
    matching = importlib.import_module("mapmaster.models.output_head.line_matching")
    record: dict[str, np.ndarray] = {}
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


def check_matching(recorded: Mapping[str, np.ndarray]) -> list[Comparison]:
    """Pivot dynamic matching of each pair alone and of many at once."""
    sums = Comparison("matching: pivot dynamic matching, cost", each=MATCHING_EACH)
    paths = Comparison("matching: pivot dynamic matching, path")
    sequences = Comparison("matching: sequence cost", each=MATCHING_EACH)
    names = sorted({key.rpartition("/")[0] for key in recorded if "/" in key})
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


def _outputs_to_process(seed: int, index: int) -> dict[str, np.ndarray]:
    """Random outputs; more instances win in the second ones, and nearly all or none in the third, by class."""
    outputs = inputs.outputs(seed, f"post{index}")
    for label, shift in enumerate(((0.0, 0.0, 0.0), (0.6, 0.6, 0.6), (20.0, -20.0, 20.0))[index]):
        outputs[f"obj_logits/{inputs.DECODERS - 1}/{label}"][..., 0] += shift
    return outputs


def record_postprocess(seed: int) -> dict[str, np.ndarray]:
    """golden_postprocess.npz: instances and masks of three random outputs."""
    record: dict[str, np.ndarray] = {}
    processor = post_processor().eval()
    for index in range(3):
        outputs = {key: torch.from_numpy(array) for key, array in _outputs_to_process(seed, index).items()}
        (result,), (masks,) = processor(nested(outputs))
        record[f"{index}/dt_masks"] = masks
        record[f"{index}/scores"] = np.array(result["confidence_level"], dtype=np.float64)
        record[f"{index}/labels"] = np.array(result["pred_label"], dtype=np.int64)
        lines = [np.zeros((0, 2), np.float32) if line is None else line for line in result["map"]]
        record[f"{index}/n_points"] = np.array([len(line) for line in lines], dtype=np.int64)
        record[f"{index}/points"] = np.concatenate(lines).astype(np.float32)
    return record


def check_postprocess(recorded: Mapping[str, np.ndarray]) -> list[Comparison]:
    map_config = preset("swint").map
    groups = {
        "*/points": Comparison("post-processing: points"),
        "*/scores": Comparison("post-processing: scores", absolute=SCORE_ABSOLUTE),
        "*/dt_masks": Comparison("post-processing: masks"),
        "*": Comparison("post-processing: labels, point counts"),
    }
    for index in range(3):
        outputs = _outputs_to_process(int(recorded["seed"]), index)
        (instances,) = postprocess(as_predictions(outputs), map_config)
        mask = draw_mask(instances, map_config)
        groups["*/dt_masks"].require(f"{index}: a mask of {mask.dtype}", mask.dtype == np.uint8)
        found = {
            f"{index}/points": np.concatenate([np.zeros((0, 2), np.float32), *instances.points]),
            f"{index}/dt_masks": mask,
            # upstream's lists begin with a placeholder
            f"{index}/scores": [-1, *instances.scores],
            f"{index}/labels": [0, *(instances.labels + 1)],
            f"{index}/n_points": [0, *map(len, instances.points)],
        }
        compare(groups, found, recorded)
    return list(groups.values())
