"""Running a network over samples, with a network that knows its answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.divider_data import write_dividers
from torch import Tensor, nn

from pivotnet.config import preset
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.inference import Predictor
from pivotnet.evaluation.results import load_result
from pivotnet.structures import Predictions

CONFIG = preset("smoke")
COLUMNS = {"a": 7, "b": 70, "c": 150}
TOKENS = list(COLUMNS)


class KnowsOneDivider(nn.Module):
    """Predicts, for a sample whose images are of grey k, a divider along column k + offset of the map."""

    def __init__(self, offset: float = 0) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, images: Tensor, points: Tensor, valid: Tensor, final_only: bool = False) -> Predictions:
        assert final_only and not self.training and not torch.is_grad_enabled()
        logits = torch.zeros(1, len(images), CONFIG.map.total_queries, 2)
        logits[..., 1] = 9
        logits[:, :, 0, 0] = 18
        coordinates = torch.zeros(1, len(images), CONFIG.map.total_points, 2)
        coordinates[:, :, :10, 0] = torch.linspace(0, 0.9, 10)
        coordinates[:, :, :10, 1] = (images[:, 0, 0, 0, 0].float()[:, None] + self.offset + 0.5) / 200
        return Predictions(logits, coordinates, torch.ones_like(coordinates))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nuscenes")
    write_dividers(root, COLUMNS)
    (root / "some.pth").write_bytes(b"weights")
    return root


def predictor(root: Path, offset: float = 0) -> Predictor:
    device = torch.device("cpu")
    return Predictor(KnowsOneDivider(offset), CONFIG, device, root, batch_size=2, workers=0)


@pytest.mark.parametrize("training", [True, False])
def test_every_sample_is_predicted_under_its_token(root: Path, training: bool) -> None:
    predicting = predictor(root)
    predicting.model.train(training)

    predicted = {token: float(instances.points[0][0, 1]) for token, instances in predicting.predict(TOKENS)}

    assert list(predicted) == TOKENS and list(predicted.values()) == pytest.approx(list(COLUMNS.values()), abs=1)
    assert predicting.model.training is training


@pytest.mark.parametrize(("offset", "expected"), [(0, [1, 1, 1, 1]), (8, [0, 0, 0, 1])])  # 8 pixels are 1.2 m
def test_ap_of_a_known_network(root: Path, tmp_path: Path, offset: float, expected: list[float]) -> None:
    result = predictor(root, offset).evaluate(root / "some.pth", TOKENS, tmp_path)

    assert result is not None and result.counts.tolist() == [3, 0, 0]
    assert result.ap[0].tolist() == expected
    mask, instances = load_result(tmp_path / "b.npz")
    assert instances.labels.tolist() == [0]
    assert np.unique(np.nonzero(mask[0])[1]) == pytest.approx([70 + offset], abs=1)


def test_a_network_that_predicts_nan_leaves_no_results(root: Path, tmp_path: Path) -> None:
    with pytest.raises(PivotNetError, match="NaN"):
        predictor(root, float("nan")).evaluate(root / "some.pth", TOKENS, tmp_path)

    assert not list(tmp_path.glob("*.npz"))
