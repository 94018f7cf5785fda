"""Record upstream's network: ``PYTHONPATH=.:tools:test/golden python test/golden/network/record.py UPSTREAM``.

small.npz: outputs and gradients of the small network behind the backbone (small.py), weights from rule.py.
projection.npz: where upstream sees the BEV cells, for two rigs of cameras.
state_dict.json, initialisation.json: names, shapes and initial statistics of the presets' parameters.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from network import small
from recordings import inputs, record_network, rule, shim
from torch import Tensor, nn

HERE = Path(__file__).parent
PRESETS = ("swint", "res50", "effb0")


def small_network() -> nn.Module:
    """Upstream's classes at the sizes of small.py."""
    model, area = small.MODEL, small.MAP
    bev = importlib.import_module("mapmaster.models.bev_decoder").DeformTransformerBEVEncoder(
        in_channels=list(model.backbone_channels),
        src_shape=[(h, w * small.CAMERAS) for h, w in model.feature_sizes],
        tgt_shape=model.bev_size,
        d_model=model.hidden,
        n_heads=model.heads,
        num_encoder_layers=model.bev_encoder_layers,
        num_decoder_layers=model.bev_decoder_layers,
        dim_feedforward=model.bev_feedforward,
        dropout=0.0,
        return_intermediate_dec=True,
        dec_n_points=model.deformable_points,
        enc_n_points=model.deformable_points,
        src_pos_encode="learned",
        tgt_pos_encode="learned",
        norm_layer=nn.BatchNorm2d,
        use_projection=True,
        map_size=area.map_size,
        map_resolution=area.resolution,
        image_shape=(900, 1600),
    )
    lines = importlib.import_module("mapmaster.models.ins_decoder").PointMask2formerINSDecoder(
        decoder_ids=list(range(model.line_decoder_layers)),
        in_channels=model.hidden,
        num_feature_levels=1,
        num_classes=1,
        hidden_dim=model.hidden,
        nheads=model.heads,
        dim_feedforward=model.line_feedforward,
        dec_layers=model.line_decoder_layers,
        pre_norm=False,
        mask_dim=model.hidden,
        enforce_input_project=False,
        query_split=area.num_queries,
        max_pieces=area.max_points,
    )
    head = importlib.import_module("mapmaster.models.output_head").PivotMapOutputHead(
        in_channel=model.hidden,
        num_queries=list(area.num_queries),
        tgt_shape=small.MASK_SIZE,
        max_pieces=area.max_points,
        bev_channels=model.hidden,
        ins_channel=model.point_features,
    )
    return nn.ModuleDict({"bev_decoder": bev, "ins_decoder": lines, "output_head": head})


def record_small() -> dict[str, np.ndarray]:
    """Outputs in both modes; in training mode also the gradients of a random linear functional of all outputs."""
    network = small_network()
    rigs = [inputs.cameras(small.SEED + i) for i in range(small.BATCH)]
    extrinsic, intrinsic = (np.concatenate(part) for part in zip(*rigs))
    record: dict[str, np.ndarray] = {"extrinsic": extrinsic, "intrinsic": intrinsic}
    for mode in ("eval", "train"):
        rule.fill(network.state_dict())
        network.train(mode == "train")
        leaves = [feature.requires_grad_() for feature in small.features()]
        state: dict[str, Any] = {
            "images": torch.empty(small.BATCH, small.CAMERAS, 0),
            "extra_infos": {},
            "extrinsic": torch.from_numpy(extrinsic).float(),
            "intrinsic": torch.from_numpy(intrinsic).float(),
            "im_bkb_features": list(leaves),
        }
        for part in network.values():
            state.update(part(state))
        total = torch.zeros(())
        for name in small.NAMES:
            for i, row in enumerate(state["outputs"][name]):
                for j, tensor in enumerate(row):
                    kept = tensor[..., ::2, :] if name.endswith("masks") else tensor
                    record[f"{mode}/{name}/{i}/{j}"] = kept.detach().numpy()
                    total = total + (tensor * small.drawn(f"weight/{name}/{i}/{j}", tuple(tensor.shape))).mean()
        margin = min(float(masks.abs().min()) for row in state["mask_features"] for masks in row)
        assert margin > 1e-4, f"a mask logit lies {margin} from the threshold: take another seed"
        if mode == "train":
            total.backward()
            for key, parameter in network.named_parameters():
                record[f"gradient/{key}"] = np.float64(parameter.grad.double().norm().item())
            for i, leaf in enumerate(leaves):
                record[f"gradient/features/{i}"] = leaf.grad[:, ::4].numpy()
            for key, buffer in network.named_buffers():
                if "running" in key:
                    record[f"after/{key}"] = buffer.numpy()
    return record


def record_projection() -> dict[str, np.ndarray]:
    """Reference points and validity of the presets' BEV grid for two rigs."""
    transformer = importlib.import_module(
        "mapmaster.models.bev_decoder.deform_transformer.deform_transformer"
    ).DeformTransformer(
        in_channels=[8, 8], src_shape=[(32, 336), (16, 168)], tgt_shape=(64, 32), d_model=8, use_projection=True
    )
    record: dict[str, np.ndarray] = {}
    for seed in (small.SEED, small.SEED + 1):
        extrinsic, intrinsic = inputs.cameras(seed)
        points, valid = transformer.get_projection_points(
            torch.from_numpy(extrinsic[0]).float(), torch.from_numpy(intrinsic[0]).float()
        )
        levels: Tensor = points[valid]
        assert float((levels[:, 0] - levels[:, 1]).abs().max()) < 2e-7, "the levels differ by more than rounding"
        record |= {
            f"{seed}/extrinsic": extrinsic[0],
            f"{seed}/intrinsic": intrinsic[0],
            f"{seed}/points": points[:, 0].numpy(),
            f"{seed}/valid": valid.numpy(),
        }
    return record


def main(checkout: str) -> None:
    """Write the recordings beside this file."""
    torch.set_num_threads(1)
    shim.import_upstream(Path(checkout))
    np.savez_compressed(HERE / "small.npz", **record_small())
    np.savez_compressed(HERE / "projection.npz", **record_projection())
    shapes, initial = {}, {}
    for preset in PRESETS:
        state = record_network.record_state_dict(preset)["state_dict"]
        shapes[preset] = {key: entry["shape"] for key, entry in state.items()}
        torch.manual_seed(small.SEED)
        initial[preset] = {
            key: [float(f"{value:.5g}") for value in rule.statistics([parameter]).values()]
            for key, parameter in shim.build(preset).named_parameters()
        }
    for name, content in (("state_dict.json", shapes), ("initialisation.json", initial)):
        text = json.dumps(content, separators=(",", ":")).replace('],"', '],\n"').replace('},"', '},\n"')
        (HERE / name).write_text(text + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
