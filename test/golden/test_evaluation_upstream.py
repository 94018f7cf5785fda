"""AP of made-up masks, side by side with upstream's own evaluation code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from pivotnet.evaluation.ap import RECALLS, THRESHOLDS, sample_ap
from pivotnet.evaluation.postprocess import draw_line

pytestmark = pytest.mark.upstream
RESOLUTION = 0.15


@pytest.fixture(scope="module")
def upstream() -> Iterator[ModuleType]:
    """Upstream's tools/evaluation/ap.py, on the CPU."""
    root = Path(os.environ.get("PIVOTNET_UPSTREAM", Path(__file__).resolve().parents[2] / "PivotNet"))
    folder = root / "tools" / "evaluation"
    if not (folder / "ap.py").is_file():
        pytest.skip(f"no checkout of upstream in {root}: set PIVOTNET_UPSTREAM")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.setattr(torch.Tensor, "cuda", lambda self, *_, **__: self)
        yield importlib.import_module("ap")
        for name in ("ap", "cd"):
            sys.modules.pop(name, None)


def made_up(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicted mask, scores and true mask; parallel and shifted lines, so that distances tie and hit thresholds."""
    rng = np.random.default_rng(seed)
    truth, drawn = np.zeros((3, 400, 200), np.uint8), np.zeros((3, 400, 200), np.uint8)
    scores = []
    for label in range(3):
        for true_id in range(1, rng.integers(0, 6) + 1):
            start = rng.integers((20, 20), (380, 180))
            step = rng.choice([(0, 40), (60, 0), (50, 30), (0, 1)])
            draw_line(truth[label], np.stack([start, start + step]), true_id, 1)
            for _ in range(rng.integers(0, 3)):
                shift = rng.choice([(0, 0), (0, 1), (1, 0), (-1, 0), (0, 10), (10, 0), (3, 3), (0, 7), (40, 9)])
                draw_line(drawn[label], np.stack([start + shift, start + step + shift]), len(scores) + 1, 1)
                scores.append(rng.choice([0.5, 0.75, 0.9, rng.random()]))
    return drawn, np.array(scores, np.float32), truth


@pytest.mark.parametrize("seed", range(12))
def test_equals_upstream(upstream: ModuleType, seed: int) -> None:
    drawn, scores, truth = made_up(seed)
    padded = torch.full((1, 100), -1.0)
    padded[0, 1 : len(scores) + 1] = torch.from_numpy(scores)

    sums, counts = upstream.instance_mask_ap(
        torch.zeros(3, 4),
        torch.zeros(3, 4),
        torch.from_numpy(drawn)[None],
        torch.from_numpy(truth)[None],
        RESOLUTION,
        RESOLUTION,
        padded,
        list(THRESHOLDS),
        torch.from_numpy(RECALLS),
    )

    ap = sample_ap(drawn, scores, truth, RESOLUTION)
    np.testing.assert_array_equal(~np.isnan(ap), counts.numpy() == 1)
    np.testing.assert_array_equal(np.nan_to_num(ap), sums.numpy())
