"""Polylines and masks cut from random outputs, against what upstream's post-processor makes of the same outputs."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import rule
import torch

from pivotnet.config import MapConfig
from pivotnet.evaluation.postprocess import draw_mask, postprocess
from pivotnet.structures import Predictions

MAP = MapConfig()
COMMITTED = Path(__file__).parent / "evaluation" / "golden_postprocess.npz"
LAST = 5  # the last line decoder


def drawn(seed: int, case: str, name: str, label: int, shape: tuple, uniform: bool = False) -> np.ndarray:
    stream = np.random.Generator(np.random.PCG64(zlib.crc32(f"{seed}/{case}/{name}/{LAST}/{label}".encode())))
    return (stream.random(shape) if uniform else stream.standard_normal(shape)).astype(np.float32)


def outputs(seed: int, case: str) -> Predictions:
    """The recorded case's network output, classes side by side."""
    objects, points, validity = [], [], []
    for label, (queries, length) in enumerate(zip(MAP.num_queries, MAP.max_points)):
        logits = drawn(seed, case, "obj_logits", label, (1, queries, 2))
        logits[..., 0] += {"post0": 0, "post1": 0.6, "post2": 20 if label != 1 else -20}[case]
        objects.append(logits)
        points.append(drawn(seed, case, "ctr_im", label, (1, queries, length, 2), uniform=True).reshape(1, -1, 2))
        validity.append(drawn(seed, case, "pts_logits", label, (1, queries, length, 2)).reshape(1, -1, 2))
    return Predictions(*(torch.from_numpy(np.concatenate(part, 1))[None] for part in (objects, points, validity)))


@pytest.fixture(params=["committed", "full"])
def recording(request: pytest.FixtureRequest) -> dict:
    if request.param == "full":
        return rule.recording("golden_postprocess.npz")
    with np.load(COMMITTED, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


@pytest.mark.parametrize("case", [0, 1, 2])
def test_equals_upstream(recording: dict, case: int) -> None:
    instances = postprocess(outputs(int(recording["seed"]), f"post{case}"), MAP)[0]

    # entry 0 of the recording is upstream's placeholder
    assert [len(line) for line in instances.points] == recording[f"{case}/n_points"][1:].tolist()
    np.testing.assert_array_equal(np.concatenate(instances.points), recording[f"{case}/points"])
    np.testing.assert_allclose(instances.scores, recording[f"{case}/scores"][1:], rtol=0, atol=1.2e-7)
    np.testing.assert_array_equal(instances.labels, recording[f"{case}/labels"][1:] - 1)
    mask = draw_mask(instances, MAP)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, recording[f"{case}/dt_masks"])
