"""Loss terms and gradients of one annotated sample in a tree of upstream, patched or not, written to an .npz.

    python probe.py TREE FAMILY PRESET NUSC_ROOT TOKEN OUT [--unpatched]

The sample goes through the tree's own data set, transforms, network and criterion. Weights follow the rule of the
recordings, dropout and stochastic depth are off, batch norms are those of one process.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(1, str(Path(__file__).parents[2]))

from recordings import rule, shim  # noqa: E402

from pivotnet.annotation.format import FOLDER, load_annotation, to_upstream  # noqa: E402
from pivotnet.model.backbone.stochastic_depth import StochasticDepth  # noqa: E402

SEED = 0


def reference_point_sample(masks: Tensor, points: Tensor, **options: Any) -> Tensor:
    """What detectron2's point_sample computes."""
    grid = points.unsqueeze(2).mul(2).sub(1)
    return nn.functional.grid_sample(masks, grid, **options).squeeze(3)


def reference_uncertain_points(
    logits: Tensor, uncertainty: Any, number: int, oversample: float, share: float
) -> Tensor:
    """What detectron2's get_uncertain_point_coords_with_randomness computes, mask by mask."""
    drawn = torch.rand(len(logits), int(number * oversample), 2)
    scores = uncertainty(reference_point_sample(logits, drawn, align_corners=False))[:, 0]
    certain = int(share * number)
    kept = [points[torch.topk(score, certain).indices] for points, score in zip(drawn, scores)]
    rest = torch.rand(len(logits), number - certain, 2)
    return torch.stack([torch.cat(pair) for pair in zip(kept, rest)]) if kept else rest


class _GradientInOrder(torch.autograd.Function):
    """Identity whose gradient lies in memory as the tensor does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.contiguous = x.is_contiguous()
        return x.clone()  # not the same memory: an activation may overwrite it

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient.contiguous() if ctx.contiguous else gradient


def right_batch_norm_gradients(network: nn.Module) -> None:
    """Keep upstream's batch norms from a fault of torch's CPU kernel.

    For one contiguous sample whose gradient is channels-last its gradients are wrong: that of the bias is not the sum
    of the output's gradient (seen with torch 2.8 and 2.13; CUDA is not concerned). Upstream's input projections meet
    it, the port's layout does not. The same numbers in the other order do not meet it either.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda module, inputs, output: _GradientInOrder.apply(output))


def prepare_unpatched(tree: Path) -> None:
    """Stand-ins for what the unpatched BeMapNet half imports, and the names that one of its configs misses."""
    images = types.ModuleType("skimage.io")
    images.imread = lambda path: np.asarray(Image.open(path))  # type: ignore[attr-defined]
    package = types.ModuleType("skimage")
    package.io = images  # type: ignore[attr-defined]
    sys.modules.update({"skimage": package, "skimage.io": images})
    shim.import_upstream(tree)
    for module in ("mask_loss", "recovery_loss"):
        losses = importlib.import_module(f"mapmaster.models.utils.{module}")
        losses.point_sample = reference_point_sample
        if module == "mask_loss":
            losses.get_uncertain_point_coords_with_randomness = reference_uncertain_points
    network = importlib.import_module("mapmaster.models.network")
    engine = importlib.import_module("mapmaster.engine.core")
    network.BeMapNet, engine.BeMapNetCli = network.MapMaster, engine.MapMasterCli


def experiment(family: str, preset: str, conf: dict[str, Any]) -> Any:
    """The config's experiment, its data in ``conf``."""
    module = importlib.import_module(f"{family}_nuscenes_{preset}")
    module.EXPConfig.map_conf.update(conf)
    return getattr(module, "ExpDev", module.Exp)(batch_size_per_device=1, total_devices=1, max_epoch=30)


def _images(batch: dict[str, Any], model: nn.Module, unpatched: bool) -> Tensor:
    """The images as they enter the network, float32 [1, 6, 3, height, width]."""
    if unpatched:
        return batch["images"].float()
    return importlib.import_module("pivotnet.upstream.transform").load_images(batch, model)


def probe(arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """Terms, total, and every gradient."""
    tree, root = arguments.tree.resolve(), arguments.nusc_root.resolve()
    with tempfile.TemporaryDirectory() as folder:
        conf = {"nusc_root": str(root), "anno_root": folder, "split_dir": folder}
        content = to_upstream(load_annotation(root / FOLDER / f"{arguments.token}.npz"))
        vectors = ("ego_vectors", "map_vectors", "ctr_points")
        objects = {key: np.array(content[key], dtype=object) for key in vectors}
        np.savez_compressed(Path(folder) / f"{arguments.token}.npz", **{**content, **objects})
        (Path(folder) / "train.txt").write_text(arguments.token + "\n")
        (Path(folder) / "val.txt").write_text(arguments.token + "\n")
        os.environ["PIVOTNET_BACKBONE_WEIGHTS"] = "none"
        if arguments.unpatched:
            prepare_unpatched(tree)
            network = shim.build(arguments.preset, arguments.family)
        else:
            sys.path[:0] = [str(tree), str(tree / "configs")]
        exp = experiment(arguments.family, arguments.preset, conf)
        if arguments.unpatched:
            exp.model = network
            right_batch_norm_gradients(network)
        shim.switch_randomness_off(exp.model)
        for module in exp.model.modules():
            if isinstance(module, StochasticDepth):
                module.rates = (0.0,) * len(module.rates)
                module.keep = module.keep[:0]
        rule.fill(exp.model.state_dict())
        exp.data_loader_workers = 0
        # one process: nothing but DDP's attribute is needed of it
        exp.model.module = types.SimpleNamespace(post_processor=exp.model.post_processor)
        exp.model.train()
        np.random.seed(SEED)
        batch = next(iter(exp.train_dataloader))
        read = _images(batch, exp.model, arguments.unpatched)
        # Noise instead of the picture: batch norm divides by the deviation of a channel, which flat colours make tiny,
        # so that rounding would grow to percents.
        batch["images"] = rule.images(SEED, tuple(read.shape))
        torch.manual_seed(SEED)
        total, terms = exp.training_step(batch)
        total.backward()
    gradients = {f"gradient/{name}": p.grad for name, p in exp.model.named_parameters() if p.grad is not None}
    named = {f"term/{name}": torch.as_tensor(value).detach() for name, value in terms.items()}
    found = {"images": read[..., ::8, ::8], "total": total.detach(), **named, **gradients}
    return {name: tensor.detach().cpu().numpy() for name, tensor in found.items()}


def main() -> None:
    """Write the .npz."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tree", type=Path)
    parser.add_argument("family", choices=("pivotnet", "bemapnet"))
    parser.add_argument("preset", choices=shim.PRESETS)
    parser.add_argument("nusc_root", type=Path)
    parser.add_argument("token")
    parser.add_argument("out", type=Path)
    parser.add_argument("--unpatched", action="store_true")
    arguments = parser.parse_args()
    np.savez(arguments.out, **probe(arguments))


if __name__ == "__main__":
    main()
