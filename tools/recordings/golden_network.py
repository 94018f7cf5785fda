"""Recordings of upstream's full-size networks: names and shapes, initialisation, outputs of a forward pass."""

import dataclasses
import functools
import math
import re
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from pivotnet.config import Config, MapConfig, preset
from pivotnet.data.projection import project_bev_grid
from pivotnet.model.pivotnet import PivotNet
from pivotnet.structures import Predictions
from recordings import inputs, shim
from recordings.comparison import Comparison, compare
from recordings.golden_criterion import as_predictions, flat, rows_of, subsampled

# Five times the largest difference between upstream in float32 and upstream in float64 (noise_floor_*.json of three
# presets and two modes): two float32 programmes that differ only in the order of their sums each stray by up to that
# floor, and the floor was measured on one seed.
OUTPUT_ABSOLUTE = {
    "obj_logits": 1.3e-5,
    "ctr_im": 4e-6,
    "pts_logits": 5.5e-6,
    "ins_masks": 1.4e-3,
    "sem_masks": 2e-4,
    "bev_enc_features": 1.2e-4,
    "bkb_features": 1e-4,
}
# Running statistics are means over thousands of float32 features.
STATISTICS_RELATIVE = 1e-5
# Initial values are random: statistics of n draws stray by about 1/sqrt(n); 6 deviations practically never occur.
INITIALISATION_DEVIATIONS = 6.0
# These are not random; their directions are rounded.
DIRECTIONS, DIRECTION_EACH, DIRECTION_ABSOLUTE = "sampling_offsets.bias", 1e-4, 1e-7
RECORDED_DRAWS, OUR_DRAWS = 8, 4
MOST_CELLS = 8  # that may be decided anew in one forward pass
CLOSEST = OUTPUT_ABSOLUTE["ins_masks"]  # the largest mask logit that counts as rounding
# steps along channels, rows and columns of the backbone's two feature maps
FEATURE_STEPS = {"swint": ((8, 4, 4), (16, 2, 2)), "res50": ((16, 4, 4), (32, 2, 2)), "effb0": ((4, 4, 4), (8, 2, 2))}


def quiet(name: str) -> Config:
    """The preset with dropout, drop path and drop connect off and checkpointing on, as recordings are made."""
    config = preset(name)
    model = dataclasses.replace(config.model, dropout=0.0, drop_path=0.0, drop_connect=0.0, checkpointing=True)
    return dataclasses.replace(config, model=model)


def build(config: Config) -> PivotNet:
    """The network with the weights of the rule."""
    network = PivotNet(config.model, config.map)
    inputs.fill(network.state_dict())
    return network


def modes(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """Evaluation and training mode in turn, each with the weights of the rule."""
    for mode in ("eval", "train"):
        inputs.fill(module.state_dict(), prefix)
        module.train(mode == "train")
        yield mode


def network_inputs(seed: int, extrinsic: np.ndarray, intrinsic: np.ndarray) -> dict[str, Any]:
    """What upstream's network takes, full size, batch 1."""
    return {
        "images": inputs.images(seed),
        "extra_infos": {"token": ["recording"]},
        "extrinsic": torch.from_numpy(extrinsic),
        "intrinsic": torch.from_numpy(intrinsic),
    }


def _describe(network: nn.Module) -> dict[str, Any]:
    """Shapes and types of all parameters and buffers, in order."""
    kinds = dict.fromkeys(dict(network.named_parameters()), "param")
    return {
        key: {"shape": list(t.shape), "dtype": str(t.dtype).replace("torch.", ""), "kind": kinds.get(key, "buffer")}
        for key, t in network.state_dict().items()
    }


def record_state_dict(seed: int, name: str) -> dict[str, Any]:
    return {"config": name, "state_dict": _describe(shim.build(name))}


def check_state_dict(recorded: Mapping[str, Any], name: str) -> list[Comparison]:
    """state_dict_<preset>.json: names, order, shapes, types."""
    config = preset(name)
    comparison = Comparison(f"{name}: names and shapes")
    ours, theirs = _describe(PivotNet(config.model, config.map)), recorded["state_dict"]
    for key in sorted(ours.keys() | theirs.keys()):
        comparison.require(f"{key}: {ours.get(key)}, recorded {theirs.get(key)}", ours.get(key) == theirs.get(key))
    # an optimiser's state knows parameters by their numbers
    comparison.require("the order differs", list(ours) == list(theirs))
    return [comparison]


def record_initialisation(seed: int, name: str) -> dict[str, Any]:
    """initialisation_<preset>.json: mean, std, min, max of every parameter of freshly built networks, without the files
    of the backbones."""
    torch.manual_seed(seed)
    statistics = _initial_statistics(lambda: shim.build(name), RECORDED_DRAWS)
    return {"config": name, "draws": RECORDED_DRAWS, "parameters": statistics}


def check_initialisation(recorded: Mapping[str, Any], name: str) -> list[Comparison]:
    """initialisation_<preset>.json: mean, deviation and range of every parameter; constants exactly."""
    config = preset(name)
    torch.manual_seed(0)
    ours = _initial_statistics(lambda: PivotNet(config.model, config.map), OUR_DRAWS)
    sizes = {key: p.numel() for key, p in PivotNet(config.model, config.map).named_parameters()}
    constants = Comparison(f"{name}: initialisation, constants")
    directions = Comparison(f"{name}: initialisation, directions", absolute=DIRECTION_ABSOLUTE, each=DIRECTION_EACH)
    draws = Comparison(f"{name}: initialisation, random", absolute=INITIALISATION_DEVIATIONS)
    constants.require("other parameters are recorded", ours.keys() == recorded["parameters"].keys())
    for key in ours.keys() & recorded["parameters"].keys():
        mine, theirs = ours[key], recorded["parameters"][key]
        constant = theirs["std"] == 0 or mine["std"] == 0
        if constant or key.endswith(DIRECTIONS):
            (constants if constant else directions).add(key, list(mine.values()), [theirs[k] for k in mine])
        else:
            strayed = _deviations(mine, theirs, OUR_DRAWS * sizes[key], recorded["draws"] * sizes[key])
            draws.add(key, strayed, np.zeros(len(strayed)))
    return [constants, directions, draws]


def _initial_statistics(build: Callable[[], nn.Module], draws: int) -> dict[str, dict[str, float]]:
    """Mean, population standard deviation, minimum and maximum of every parameter over so many fresh constructions; one
    alone says little of a bias of two values."""
    each: dict[str, list[list[float]]] = {}
    for _ in range(draws):  # one network at a time: memory
        for key, parameter in build().named_parameters():
            values = parameter.detach().double()
            found = values.mean(), values.var(unbiased=False), values.min(), values.max()
            each.setdefault(key, []).append([value.item() for value in found])
    joined = {}
    for key, parts in each.items():
        means, variances, lows, highs = np.array(parts).T
        low, high, mean = lows.min(), highs.max(), means.mean()
        deviation = math.sqrt((variances + (means - mean) ** 2).mean())
        mean, deviation = (low, 0.0) if low == high else (mean, deviation)
        joined[key] = {"mean": float(mean), "std": float(deviation), "min": float(low), "max": float(high)}
    return joined


def _deviations(ours: dict[str, float], theirs: dict[str, float], n_ours: int, n_theirs: int) -> list[float]:
    """By how many of its own deviations each statistic strays from the recorded one. Of n draws with deviation s, the
    mean has the deviation s/sqrt(n) and the deviation about s/sqrt(2n). The largest magnitude distinguishes a uniform
    from a normal distribution of the same s: it is s sqrt(3), or about s sqrt(2 ln n). It is compared from 1000 draws
    on, where its own scatter is about s/sqrt(2 ln n)."""
    scale = max(ours["std"], theirs["std"])
    spread = scale * math.sqrt(1 / n_ours + 1 / n_theirs)
    result = [(ours["mean"] - theirs["mean"]) / spread, (ours["std"] - theirs["std"]) / spread * math.sqrt(2)]
    if n_ours >= 1000:
        reach = [max(abs(s["min"]), abs(s["max"])) for s in (ours, theirs)]
        growth = scale * (math.sqrt(2 * math.log(max(n_ours, n_theirs))) - math.sqrt(2 * math.log(n_ours)))
        result.append(max(0.0, abs(reach[0] - reach[1]) - growth) / (scale / math.sqrt(2 * math.log(n_ours))))
    return result


def record_forward(seed: int, name: str) -> dict[str, np.ndarray]:
    """golden_forward_<preset>.npz: every output in evaluation and training mode, under no_grad."""
    extrinsic, intrinsic = inputs.cameras(seed)
    record: dict[str, np.ndarray] = {"extrinsic": extrinsic, "intrinsic": intrinsic}
    record["image_first8"] = inputs.images(seed).flatten()[:8].numpy()
    network = shim.build(name)
    features: list[Tensor] = []
    network.im_backbone.register_forward_hook(
        # a copy: the BEV decoder overwrites the list in place
        lambda module, arguments, output: features.extend(t.clone().flatten(0, -4) for t in output["im_bkb_features"])
    )
    for mode in modes(network):
        features.clear()
        with torch.no_grad():
            result = network(network_inputs(seed, extrinsic, intrinsic))
        record |= {f"{mode}/{key}": subsampled(key, tensor) for key, tensor in flat(result["outputs"]).items()}
        for i, tensor in enumerate(result["bev_enc_features"]):
            record[f"{mode}/bev_enc_features/{i}"] = tensor[:, ::4, ::4, ::4].numpy()
        for i, (tensor, (c, h, w)) in enumerate(zip(features, FEATURE_STEPS[name])):
            record[f"{mode}/bkb_features/{i}"] = tensor[:, ::c, ::h, ::w].numpy()
    wanted = re.compile(r".*(input_proj.*running_(mean|var)|_blocks\.1\._bn0\.running_mean)")
    state = network.state_dict()
    return record | {f"train/after/{key}": state[key].numpy() for key in filter(wanted.fullmatch, state)}


def check_forward(recorded: Mapping[str, np.ndarray], name: str) -> list[Comparison]:
    """golden_forward_<preset>.npz: every output, both modes, and running statistics after the training pass."""
    images = inputs.images(int(recorded["seed"]))
    if not np.array_equal(images.flatten()[:8].numpy(), recorded["image_first8"]):
        raise ValueError("this numpy draws other random numbers than the recording's; nothing can be compared")
    config = quiet(name)
    reference = project_bev_grid(recorded["extrinsic"][0], recorded["intrinsic"][0], config.model.bev_size, config.map)
    network = build(config)
    features = _keep_features(network, config.model.bev_size)
    comparisons = []
    for mode in modes(network):
        theirs = as_predictions(recorded, f"{mode}/")
        run = functools.partial(network, images, *(tensor[None] for tensor in reference))
        predictions, flipped = decided_as_recorded(network, run, theirs.points, config.map)
        limits = OUTPUT_ABSOLUTE.items()
        groups = {f"{key}/*": Comparison(f"{name}: {mode} {key}", absolute=limit) for key, limit in limits}
        found = rows_of(at_size(predictions, config.mask_size)) | features
        compare(groups, found, ChainMap(rows_of(theirs, f"{mode}/"), recorded), f"{mode}/")
        comparisons += groups.values()
        if flipped:
            decided = Comparison(f"{name}: {mode} attention cells decided as recorded", absolute=CLOSEST)
            for (layer, instance, cell), logit in flipped.items():
                decided.add(f"layer {layer}, instance {instance}, cell {cell}", logit, 0.0)
            comparisons.append(decided)
    statistics = Comparison(f"{name}: running statistics", relative=STATISTICS_RELATIVE)
    state = network.state_dict()
    for key in (key for key in recorded if key.startswith("train/after/")):
        statistics.add(key, state[key[len("train/after/") :]], recorded[key])
    return [*comparisons, statistics]


def decided_as_recorded(
    network: PivotNet, forward: Callable[[], Predictions], points: Tensor, map_config: MapConfig
) -> tuple[Predictions, dict[tuple[int, int, int], float]]:
    """What ``forward`` predicts, with attention cells that rounding decides decided as in the recording, and {(layer,
    instance, cell): logit} of the cells that were decided otherwise. The decoder lets a point query see a BEV cell when
    its instance's mask logit is not negative there. Of the millions of logits of a forward pass a few lie within
    rounding of zero, and two right programmes may decide them differently; the instance's points then move by more than
    rounding. The first layer and the instance whose ``points`` [D, B, T, 2] differ from the recorded ones are looked
    for, and the logit nearest to zero there is taken, one after the other."""
    decoder: Any = network.line_decoder
    usual = decoder.masked
    sizes = zip(map_config.num_queries, map_config.max_points)
    first_points = np.cumsum([0] + [points for queries, points in sizes for _ in range(queries)])[:-1]  # [Q]
    flipped: dict[tuple[int, int, int], float] = {}
    layers: list[Tensor] = []  # logits of each layer, [B, Q, N]

    def masked(logits: Tensor) -> Tensor:
        hidden = usual(logits)
        for layer, instance, cell in flipped:
            if layer == len(layers):
                hidden[:, instance, cell] = ~hidden[:, instance, cell]
        layers.append(logits)
        return hidden

    with mock.patch.object(decoder, "masked", masked), torch.no_grad():
        while True:
            layers.clear()
            inputs.fill(network.state_dict())
            predictions = forward()
            worst = (predictions.points - points).abs().amax((1, 3)).numpy()  # [D, T]
            differing = np.flatnonzero(worst.max(axis=1) > OUTPUT_ABSOLUTE["ctr_im"])
            if not len(differing) or len(flipped) >= MOST_CELLS:
                return predictions, flipped
            layer = int(differing[0])
            instance = int(np.maximum.reduceat(worst[layer], first_points).argmax())
            logit, cell = (value.item() for value in layers[layer][0, instance].abs().min(0))
            if logit > CLOSEST or (layer, instance) in {key[:2] for key in flipped}:
                return predictions, flipped  # no close call, or deciding it otherwise has not helped
            flipped[layer, instance, cell] = logit


def at_size(predictions: Predictions, size: tuple[int, int]) -> Predictions:
    masks = {name: upsampled(getattr(predictions, name), size) for name in ("masks", "semantic_logits")}
    return dataclasses.replace(predictions, **masks)


def upsampled(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """[..., h, w] on the BEV grid -> [..., H, W], as upstream's head does it."""
    pixels = nn.functional.interpolate(logits.flatten(0, -3)[None], size=size, mode="bilinear", align_corners=True)
    return pixels.view(*logits.shape[:-2], *size)


def _keep_features(network: PivotNet, bev_size: tuple[int, int]) -> dict[str, Tensor]:
    """What the backbone and the BEV encoder return in the last forward pass, under the recordings' keys."""
    found: dict[str, Tensor] = {}

    def keep(name: str, outputs: list[Tensor]) -> None:
        found.update({f"{name}/{i}": output for i, output in enumerate(outputs)})

    def keep_encoder(module: nn.Module, arguments: Any, outputs: Any) -> None:
        # E times [B, N, hidden] -> [B, hidden, rows, columns]
        keep("bev_enc_features", [output.transpose(1, 2).unflatten(2, bev_size) for output in outputs])

    network.im_backbone.register_forward_hook(lambda module, arguments, outputs: keep("bkb_features", outputs))
    network.bev_encoder.register_forward_hook(keep_encoder)
    return found
