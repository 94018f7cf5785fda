"""Running a network over samples, with a network that knows its answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
import torch
from evaluation_samples import one_divider, write_annotation
from torch import Tensor, nn

from pivotnet.config import preset
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.inference import evaluate_model, predict
from pivotnet.evaluation.results import load_result, result_path
from pivotnet.structures import Batch, Predictions

CONFIG = preset("swint")
CPU = torch.device("cpu")
RUN = {"checkpoint": "some.pth", "fingerprint": "f", "preset": "smoke"}


class KnowsOneDivider(nn.Module):
    """Predicts, for a sample whose images are filled with k, a divider along column k pixels of the map."""

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.broken = broken

    def forward(self, images: Tensor, points: Tensor, valid: Tensor, final_only: bool = False) -> Predictions:
        assert final_only and not self.training and not torch.is_grad_enabled()
        batch = len(images)
        logits = torch.zeros(1, batch, 60, 2)
        logits[..., 1] = 9
        logits[:, :, 0, 0] = 18
        coordinates = torch.zeros(1, batch, 700, 2)
        coordinates[:, :, :10, 0] = torch.linspace(0, 0.9, 10)
        coordinates[:, :, :10, 1] = (images[:, 0, 0, 0, 0].float()[:, None] + 0.5) / 200
        if self.broken:
            coordinates /= 0
        return Predictions(logits, coordinates, torch.ones(1, batch, 700, 2))


class Batches:
    """Batches of two samples; sample k has images filled with k."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return -(-len(self.tokens) // 2)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.tokens), 2):
            tokens = self.tokens[start : start + 2]
            images = torch.stack([torch.full((6, 4, 4, 3), int(token), dtype=torch.uint8) for token in tokens])
            yield Batch(images, torch.zeros(len(tokens), 8, 2), torch.zeros(len(tokens), 8, dtype=torch.bool), tokens)


def annotate(root: Path, token: str) -> None:
    write_annotation(root, token, one_divider(token, int(token)))


def evaluate(model: nn.Module, root: Path, folder: Path, tokens: list[str], **options: Any) -> Any:
    known: dict[str, Any] = dict(config=CONFIG, device=CPU, data_root=root, folder=folder, run=RUN, quiet=True)
    return evaluate_model(model, Batches(tokens), tokens=tokens, **known, **options)


def test_every_sample_is_predicted_under_its_token() -> None:
    predicted = dict(predict(KnowsOneDivider(), Batches(["3", "50", "120"]), CONFIG.map, CPU, quiet=True))

    assert {token: int(instances.points[0][0, 1]) for token, instances in predicted.items()} == {
        "3": 3,
        "50": 50,
        "120": 120,
    }


@pytest.mark.parametrize("training", [True, False])
def test_the_network_keeps_its_mode(training: bool) -> None:
    model = KnowsOneDivider().train(training)

    list(predict(model, Batches(["1"]), CONFIG.map, CPU, quiet=True))

    assert model.training is training


def test_a_network_that_is_right_has_ap_one(tmp_path: Path) -> None:
    tokens = ["7", "70", "150"]
    for token in tokens:
        annotate(tmp_path, token)

    result = evaluate(KnowsOneDivider(), tmp_path, tmp_path / "results", tokens)

    assert result.counts.tolist() == [3, 0, 0]
    np.testing.assert_array_equal(result.ap[0], np.ones(4, np.float32))
    stored = load_result(result_path(tmp_path / "results", "70"))
    assert stored.instances.labels.tolist() == [0]
    assert np.unique(np.nonzero(stored.mask[0])[1]).tolist() == [70]


def test_a_network_that_is_off_by_one_metre_has_ap_at_the_easy_threshold_only(tmp_path: Path) -> None:
    class Off(KnowsOneDivider):
        def forward(self, images: Tensor, points: Tensor, valid: Tensor, final_only: bool = False) -> Predictions:
            return super().forward(images + 7, points, valid, final_only)  # 7 pixels are 1.05 m

    annotate(tmp_path, "70")

    result = evaluate(Off(), tmp_path, tmp_path / "results", ["70"])

    assert result.ap[0].tolist() == [0, 0, 0, 1]


def test_ranks_predict_their_share_and_the_main_one_scores(tmp_path: Path) -> None:
    tokens = ["7", "70", "150"]
    for token in tokens:
        annotate(tmp_path, token)
    folder = tmp_path / "results"
    agreements: list[Optional[PivotNetError]] = []

    other = evaluate_model(
        KnowsOneDivider(),
        Batches(tokens[1:]),
        config=CONFIG,
        device=CPU,
        data_root=tmp_path,
        tokens=tokens,
        folder=folder,
        run=RUN,
        main=False,
        agree=lambda error: folder.mkdir(exist_ok=True) or agreements.append(error),
    )
    (folder / "run.json").write_text('{"fingerprint": "f"}')
    result = evaluate_model(
        KnowsOneDivider(),
        Batches(tokens[:1]),
        config=CONFIG,
        device=CPU,
        data_root=tmp_path,
        tokens=tokens,
        folder=folder,
        run=RUN,
        quiet=True,
    )

    assert other is None and agreements == [None, None]
    assert result is not None and result.samples == 3
    assert (result.ap[0] == 1).all()


def test_an_error_in_a_rank_is_agreed_on_before_scoring(tmp_path: Path) -> None:
    annotate(tmp_path, "7")
    agreements: list[Optional[PivotNetError]] = []

    def agree(error: Optional[PivotNetError]) -> None:
        agreements.append(error)
        if error is not None:
            raise error

    with pytest.raises(PivotNetError, match="NaN"):
        evaluate(KnowsOneDivider(broken=True), tmp_path, tmp_path / "results", ["7"], agree=agree)

    assert [error is None for error in agreements] == [True, False]
    assert not list((tmp_path / "results").glob("*.npz"))
