"""Sequence matching and pivot dynamic matching equal to upstream's, ties included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rule

from pivotnet.criterion.sequence import match_points, sequence_costs

COMMITTED = Path(__file__).parent / "criterion" / "matching.npz"


@pytest.fixture(scope="module", params=["small", "full"])
def record(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    if request.param == "full":
        return rule.recording("golden_matching.npz")
    return dict(np.load(COMMITTED, allow_pickle=False))


def entries(record: dict[str, np.ndarray], kind: str) -> list[str]:
    return [key[: -len("/cost")] for key in record if key.startswith(f"{kind}/") and key.endswith("/cost")]


def test_pivot_dynamic_matching(record: dict[str, np.ndarray]) -> None:
    names = entries(record, "pdm")
    assert names
    for name in names:
        cost = record[f"{name}/cost"]
        total, path = match_points(cost[:, :, None], np.array([len(cost)]))
        assert total[0] == pytest.approx(float(record[f"{name}/total"]), rel=1e-14)
        np.testing.assert_array_equal(path[0], record[f"{name}/match"], err_msg=name)


def test_pairs_of_different_lengths_do_not_disturb_each_other(record: dict[str, np.ndarray]) -> None:
    """All recorded pairs with 30 predicted points at once, padded with nonsense, equal the pairs alone."""
    names = [name for name in entries(record, "pdm") if record[f"{name}/cost"].shape[1] == 30]
    cost = np.random.default_rng(0).random((30, 30, len(names))).astype(np.float32)
    lengths = np.array([len(record[f"{name}/cost"]) for name in names])
    for k, name in enumerate(names):
        cost[: lengths[k], :, k] = record[f"{name}/cost"]
    totals, paths = match_points(cost, lengths)
    np.testing.assert_allclose(totals, [float(record[f"{name}/total"]) for name in names], rtol=1e-14)
    for name, path, length in zip(names, paths, lengths):
        np.testing.assert_array_equal(path[:length], record[f"{name}/match"])
        assert (path[length:] == 29).all()


@pytest.mark.parametrize("end_weight", [0, 5])
def test_sequence_costs(record: dict[str, np.ndarray], end_weight: int) -> None:
    names = entries(record, "seq")
    assert names
    for name in names:
        cost = record[f"{name}/cost"].transpose(1, 2, 0)
        ours = sequence_costs(cost, record[f"{name}/lens"], end_weight)
        np.testing.assert_allclose(ours, record[f"{name}/coe{end_weight}"], rtol=1e-14)
