"""Matching and losses on random predictions and drawn targets."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recordings import inputs
from recordings.golden_criterion import as_targets, post_processor, predictions_from
from recordings.golden_network import upsampled

from benchmarks import other, sample
from benchmarks.pair import Phases, Task
from pivotnet import device as devices
from pivotnet.config import preset
from pivotnet.criterion.criterion import Criterion
from pivotnet.data.targets import build_targets
from pivotnet.structures import Predictions

TARGETS, FORWARD, BACKWARD = "targets", "matcher and criterion", "backward"
GRID_MASKS = ("ins_masks", "sem_masks")
FIELDS = ("object_logits", "points", "point_logits", "masks", "semantic_logits")


def drawn_outputs(seed: int, case: str, bev_size: tuple[int, int]) -> dict[str, list[list[np.ndarray]]]:
    """Random outputs by the rule of the recordings, but with masks on the BEV grid, where networks predict them."""
    outputs = inputs.outputs(seed, case)
    generator = np.random.default_rng(seed)
    for name in GRID_MASKS:
        outputs[name] = [
            [generator.standard_normal((*array.shape[:-2], *bev_size), dtype=np.float32) for array in row]
            for row in outputs[name]
        ]
    return outputs


class OurCriterion(Task):
    """Targets, matching, losses and their gradient for a batch. Upsampling the masks is part of it.

    Args:
        case: a key of recordings.inputs.CASES.
        device: npu, cuda or cpu; None for the first that there is.
    """

    def __init__(self, seed: int, case: str, batch_size: int, device: str) -> None:
        self.device = devices.select_device(device)
        self.phases = Phases(self.device)
        self.config = preset("swint")
        self.criterion = Criterion(self.config).to(self.device)
        self.samples = sample.target_samples(seed, case, batch_size)
        bev_size = self.config.model.bev_size
        single = [predictions_from(drawn_outputs(seed + index, case, bev_size)) for index in range(batch_size)]
        self.predictions = Predictions(
            **{
                name: torch.cat([getattr(one, name) for one in single], dim=1).to(self.device).requires_grad_()
                for name in FIELDS
            }
        )

    def prepare(self) -> None:
        """No gradients."""
        for name in FIELDS:
            getattr(self.predictions, name).grad = None

    def run(self) -> None:
        """Forward and backward."""
        targets = build_targets(self.samples, self.config)
        self.phases.end(TARGETS)
        result = self.criterion(self.predictions, targets.to(self.device))
        self.phases.end(FORWARD)
        result.total.backward()
        self.phases.end(BACKWARD)

    def facts(self) -> dict[str, Any]:
        """Size of a run."""
        return {"batch_size": len(self.samples), "device": devices.device_name(self.device)}


class OtherCriterion(Task):
    """The same of another checkout, one sample, on a CPU. Its network has upsampled the masks before.

    Args:
        checkout: upstream, or a port of it.
        case: a key of recordings.inputs.CASES.
    """

    def __init__(self, checkout: Path, seed: int, case: str) -> None:
        self.phases = Phases()
        other.import_other(checkout)
        self.processor = post_processor().train()
        self.target = inputs.target(seed, case)
        config = preset("swint")

        def given(name: str, array: np.ndarray) -> torch.Tensor:
            tensor = torch.from_numpy(array)
            return (upsampled(tensor, config.mask_size) if name in GRID_MASKS else tensor).requires_grad_()

        self.outputs = {
            name: [[given(name, array) for array in row] for row in rows]
            for name, rows in drawn_outputs(seed, case, config.model.bev_size).items()
        }

    def prepare(self) -> None:
        """Targets, which a run changes in place, and no gradients."""
        self.targets = as_targets(copy.deepcopy(self.target))
        for rows in self.outputs.values():
            for row in rows:
                for tensor in row:
                    tensor.grad = None

    def run(self) -> None:
        """Forward (which makes the targets first) and backward."""
        total, _ = self.processor(self.outputs, self.targets)
        self.phases.end(FORWARD)
        total.backward()
        self.phases.end(BACKWARD)

    def facts(self) -> dict[str, Any]:
        """Size of a run."""
        return {"batch_size": 1}
