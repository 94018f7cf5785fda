"""The whole network against recordings of upstream: outputs of both modes, gradients, initialisation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import rule
import torch
from network import small
from recordings.check_network import upsampled
from recordings.rule import statistics

from pivotnet.config import MapConfig, preset
from pivotnet.data.projection import project_bev_grid
from pivotnet.model import pivotnet as network_module
from pivotnet.model.pivotnet import PivotNet
from pivotnet.structures import Predictions

FOLDER = Path(__file__).parent / "network"
INITIALISATION = json.loads((FOLDER / "initialisation.json").read_text())


def by_class(predictions: Predictions, area: MapConfig) -> dict[str, torch.Tensor]:
    """Predictions under the recordings' keys, name/decoder/class."""
    rows, first_query, first_point = {}, 0, 0
    for label, (queries, length) in enumerate(zip(area.num_queries, area.max_points)):
        of_queries = slice(first_query, first_query + queries)
        of_points = slice(first_point, first_point + queries * length)
        first_query, first_point = of_queries.stop, of_points.stop
        rows["obj_logits", label] = predictions.object_logits[:, :, of_queries]
        rows["ins_masks", label] = upsampled(predictions.masks[:, :, of_queries], small.MASK_SIZE)
        rows["ctr_im", label] = predictions.points[:, :, of_points].unflatten(2, (queries, length))
        rows["pts_logits", label] = predictions.point_logits[:, :, of_points].unflatten(2, (queries, length))
        rows["sem_masks", label] = upsampled(predictions.semantic_logits[:, :, label], small.MASK_SIZE)
    return {f"{name}/{i}/{label}": part for (name, label), parts in rows.items() for i, part in enumerate(parts)}


class Features(torch.nn.Module):
    """Stands in for the backbone: gives the recorded features whatever the images are."""

    def __init__(self) -> None:
        super().__init__()
        self.leaves = [feature.requires_grad_() for feature in small.features()]

    def forward(self, images):
        return self.leaves


@pytest.fixture
def small_network(monkeypatch):
    monkeypatch.setattr(network_module, "build_backbone", lambda model: Features())
    network = PivotNet(small.MODEL, small.MAP)
    rule.fill(network.state_dict())
    return network


def small_inputs(recorded):
    images = torch.zeros(small.BATCH, small.CAMERAS, 3, *small.MODEL.image_size)
    pairs = zip(recorded["extrinsic"], recorded["intrinsic"])
    points, valid = zip(*(project_bev_grid(e, i, small.MODEL.bev_size, small.MAP) for e, i in pairs))
    return images, torch.stack(points), torch.stack(valid)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_small_network_equals_upstream(small_network, mode):
    recorded = np.load(FOLDER / "small.npz")
    small_network.train(mode == "train")
    outputs = by_class(small_network(*small_inputs(recorded)), small.MAP)
    compared = 0
    for key, output in outputs.items():
        kept = output[..., ::2, :] if "masks" in key else output
        torch.testing.assert_close(kept, torch.from_numpy(recorded[f"{mode}/{key}"]), rtol=1e-5, atol=2e-5, msg=key)
        compared += 1
    assert compared == sum(key.startswith(f"{mode}/") for key in recorded.files) > 0


def test_small_network_gradients_equal_upstream(small_network):
    recorded = np.load(FOLDER / "small.npz")
    small_network.train()
    outputs = by_class(small_network(*small_inputs(recorded)), small.MAP)
    sum((o * small.drawn(f"weight/{key}", tuple(o.shape))).mean() for key, o in outputs.items()).backward()
    parameters = dict(small_network.named_parameters())
    norms = {key: float(recorded[f"gradient/{key}"]) for key in parameters}
    total = math.sqrt(sum(norm**2 for norm in norms.values()))
    for key, norm in norms.items():
        gradient = parameters[key].grad
        assert gradient is not None, key
        assert abs(float(gradient.double().norm()) - norm) <= 1e-4 * norm + 1e-6 * total, key
    for i, leaf in enumerate(small_network.im_backbone.leaves):
        wanted = torch.from_numpy(recorded[f"gradient/features/{i}"])
        torch.testing.assert_close(leaf.grad[:, ::4], wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
    for key, buffer in small_network.named_buffers():
        if "running" in key:
            torch.testing.assert_close(buffer, torch.from_numpy(recorded[f"after/{key}"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(INITIALISATION))
def test_initialisation_equals_upstream(name):
    config = preset(name)
    torch.manual_seed(0)
    network = PivotNet(config.model, config.map)
    parameters = dict(network.named_parameters())
    assert list(parameters) == list(INITIALISATION[name])
    for key, parameter in parameters.items():
        ours, (mean, std, low, high) = statistics([parameter]), INITIALISATION[name][key]
        if std == 0 or key.endswith("sampling_offsets.bias"):  # not random: exact to the digits recorded
            assert list(ours.values()) == pytest.approx([mean, std, low, high], rel=1e-4, abs=1e-7), key
            continue
        n = parameter.numel()
        if n < 32:  # too few values for more than their order of magnitude
            assert 1 / 30 < max(ours["max"], -ours["min"]) / max(high, -low) < 30, key
            continue
        # Two samples of n draws: 6 standard errors of the difference of their means and of their deviations.
        assert abs(ours["mean"] - mean) <= 6 * std * math.sqrt(2 / n), key
        assert abs(ours["std"] / std - 1) <= 6 / math.sqrt(n), key
        # Tells a uniform from a normal distribution: the extremes of the former lie at 1.7 deviations. Those of few
        # draws scatter too much for that.
        if n < 4096:
            continue
        assert ours["max"] / ours["std"] == pytest.approx(high / std, rel=0.35), key
        assert ours["min"] / ours["std"] == pytest.approx(low / std, rel=0.35), key
    bev = network.bev_decoder["bev_encoder"]
    for layers in (bev.encoder.layers, bev.decoder.layers):  # upstream copies one layer, then redraws the matrices
        assert all(torch.equal(layer.linear1.bias, layers[0].linear1.bias) for layer in layers)
        assert not torch.equal(layers[1].linear1.weight, layers[0].linear1.weight)
