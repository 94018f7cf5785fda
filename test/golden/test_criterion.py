"""Targets, matching, losses and gradients equal to upstream's, for the recordings of both sizes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import rule
import torch
from criterion import small
from recordings import inputs
from recordings.check_criterion import predictions_from, split_classes

from pivotnet.config import Config, preset
from pivotnet.criterion.criterion import TERMS, Criterion, CriterionResult
from pivotnet.data.targets import build_targets
from pivotnet.structures import Predictions, Targets

COMMITTED = Path(__file__).parent / "criterion" / "loss.npz"
FIELDS = {
    "obj_logits": "object_logits",
    "ins_masks": "masks",
    "ctr_im": "points",
    "pts_logits": "point_logits",
    "sem_masks": "semantic_logits",
}


class Case:
    """One recorded case, and what we compute for it."""

    def __init__(self, name: str, record: dict[str, np.ndarray], config: Config, outputs: dict, step: int) -> None:
        self.name, self.config, self.step = name, config, step
        self.record = {key[len(name) + 1 :]: array for key, array in record.items() if key.startswith(f"{name}/")}
        sample = (
            self.record["masks"],
            {c: self.record[f"points{c}"] for c in range(3)},
            {c: self.record[f"valid_len{c}"] for c in range(3)},
        )
        self.targets: Targets = build_targets([sample], config)
        self.predictions: Predictions = predictions_from(outputs, requires_grad=True)
        self.result: CriterionResult = Criterion(config)(self.predictions, self.targets)
        self.result.total.backward()


def small_case(name: str) -> Case:
    record = dict(np.load(COMMITTED, allow_pickle=False))
    points = {c: record[f"{name}/points{c}"] for c in range(3)}
    return Case(name, record, small.CONFIG, small.outputs(name, record[f"{name}/masks"], points), small.KEPT)


@pytest.fixture(scope="module", params=[("small", case) for case in small.CASES] + [("full", c) for c in inputs.CASES])
def case(request: pytest.FixtureRequest) -> Case:
    size, name = request.param
    if size == "small":
        return small_case(name)
    record = rule.recording("golden_loss.npz")
    return Case(name, record, preset("swint"), inputs.outputs(int(record["seed"]), name), mask_step(record))


def mask_step(record: dict[str, np.ndarray]) -> int:
    """Every how many rows and columns of masks are recorded."""
    rows = next(array.shape[-2] for key, array in record.items() if "/grad/ins_masks/" in key)
    return math.ceil(preset("swint").map.map_size[0] / rows)


def test_total_and_terms(case: Case) -> None:
    # upstream keeps target points in float64, we in float32: 6e-8 of a coordinate
    assert case.result.total.item() == pytest.approx(float(case.record["total"]), rel=1e-6)
    for term in TERMS:
        expected = float(case.record[f"loss/{term}"])
        assert case.result.terms[term].item() == pytest.approx(expected, rel=2e-6, abs=1e-12), term


def test_matching_is_identical(case: Case) -> None:
    for i in range(len(case.config.criterion.decoder_weights)):
        for c, found in enumerate(case.result.matches):
            own = np.flatnonzero(found.decoder == i)
            own = own[np.argsort(found.query[own])]
            np.testing.assert_array_equal(found.query[own], case.record[f"match_dt/{i}/{c}"])
            np.testing.assert_array_equal(found.instance[own], case.record[f"match_gt/{i}/{c}"])


@pytest.mark.parametrize("name", FIELDS)
def test_gradients(case: Case, name: str) -> None:
    gradient = getattr(case.predictions, FIELDS[name]).grad
    assert gradient.isfinite().all()
    for i, row in enumerate(split_classes(name, gradient.numpy())):
        for c, ours in enumerate(row):
            theirs = case.record[f"grad/{name}/{i}/{c}"]
            kept = ours[..., :: case.step, :: case.step] if name.endswith("masks") else ours
            # sums of up to 80000 pixels and 450 points in another order
            np.testing.assert_allclose(kept, theirs, rtol=1e-5, atol=2e-6 * np.abs(theirs).max(initial=0))


def test_masks_of_instances(case: Case) -> None:
    """As many pixels as upstream's, also where an overdrawn id makes it redraw a class."""
    for c in range(3):
        n = int(case.targets.counts[0, c])
        pixels = case.targets.masks[0, c, :n].flatten(1).sum(1)
        assert pixels.tolist() == case.record[f"gt_mask_sum{c}"].tolist()
        assert not case.targets.masks[0, c, n:].any()
    if "gt_ins_masks0" in case.record:
        n = int(case.targets.counts[0, 0])
        np.testing.assert_array_equal(case.targets.masks[0, 0, :n], case.record["gt_ins_masks0"])


def test_a_perturbed_target_is_noticed() -> None:
    """The tolerances are tight enough to see one pixel of one mask, and one point moved by 2 cm."""
    case = small_case("typical")
    moved = case.targets.points.clone()
    moved[0, 2, 0, 0] += 0.02 / 60
    masks = case.targets.masks.clone()
    masks[0, 0, 0, 3, 4] ^= 1
    for changed in ({"points": moved}, {"masks": masks}):
        with torch.no_grad():
            result = Criterion(case.config)(case.predictions, dataclasses.replace(case.targets, **changed))
        assert result.total.item() != pytest.approx(float(case.record["total"]), rel=1e-6)
