"""The keyword arguments of upstream's configs -> this package's configuration. Each function raises PivotNetError for
an option that the port does not support."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pivotnet.config import CAMERAS, CriterionConfig, MapConfig, ModelConfig
from pivotnet.errors import PivotNetError

BASE = ModelConfig()
# upstream's pivot configs all say this; other values are other networks
BEV_FIXED: dict[str, Any] = {
    "activation": "relu",
    "return_intermediate_dec": True,
    "src_pos_encode": "learned",
    "tgt_pos_encode": "learned",
    "use_projection": True,
    "image_shape": (900, 1600),
}
LINE_FIXED: dict[str, Any] = {
    "num_feature_levels": 1,
    "mask_classification": True,
    "num_classes": 1,
    "pre_norm": False,
    "enforce_input_project": False,
}


def require(what: str, given: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """Refuse another value for options that have one supported value."""
    for name, value in fixed.items():
        found = given.get(name, value)
        if found != value:
            raise PivotNetError(f"{what} has {name}={found!r}, the port supports {value!r} only: correct the config")


def bev_config(options: Mapping[str, Any]) -> ModelConfig:
    """ModelConfig of ``bev_decoder``'s net_kwargs."""
    points = options["enc_n_points"]
    require("bev_decoder", options, {**BEV_FIXED, "dec_n_points": points})
    (height, width), *_ = options["src_shape"]
    model = dataclasses.replace(
        BASE,
        backbone_channels=tuple(options["in_channels"]),
        image_size=(height * 16, width // len(CAMERAS) * 16),
        hidden=options["d_model"],
        heads=options["n_heads"],
        bev_size=tuple(options["tgt_shape"]),
        bev_encoder_layers=options["num_encoder_layers"],
        bev_decoder_layers=options["num_decoder_layers"],
        bev_feedforward=options["dim_feedforward"],
        deformable_points=points,
        dropout=options["dropout"],
    )
    sizes = [(rows, columns * len(CAMERAS)) for rows, columns in model.feature_sizes]
    require("bev_decoder", {"src_shape": [tuple(shape) for shape in options["src_shape"]]}, {"src_shape": sizes})
    return model


def line_config(options: Mapping[str, Any]) -> tuple[ModelConfig, MapConfig]:
    """ModelConfig and MapConfig of ``ins_decoder``'s net_kwargs."""
    width = options["hidden_dim"]
    require("ins_decoder", options, {**LINE_FIXED, "in_channels": width, "mask_dim": width})
    layers = {"line_decoder_layers": options["dec_layers"], "line_feedforward": options["dim_feedforward"]}
    model = dataclasses.replace(BASE, hidden=width, heads=options["nheads"], **layers)
    points, queries = tuple(options["max_pieces"]), tuple(options["query_split"])
    return model, MapConfig(max_points=points, num_queries=queries)


def map_config(map_conf: Mapping[str, Any], max_pieces: tuple[int, int, int]) -> MapConfig:
    """MapConfig of upstream's map_conf and number of points by class."""
    return MapConfig(
        ego_size=tuple(map_conf["ego_size"]),
        resolution=map_conf["map_resolution"],
        map_size=tuple(map_conf["map_size"]),
        max_points=max_pieces,
        mask_thickness=map_conf["line_width"],
        result_thickness=map_conf["save_thickness"],
    )


def criterion_config(
    criterion_conf: Mapping[str, Any],
    matcher_conf: Mapping[str, Any],
    sem_loss_conf: Mapping[str, Any],
    no_object_coe: float = 1.0,
    collinear_pts_coe: float = 1.0,
    coe_endpts: float = 0.0,
) -> CriterionConfig:
    """CriterionConfig of the post-processor's net_kwargs, but its map_conf and pivot_conf."""
    require("matcher_conf", matcher_conf, {"coe_endpts": coe_endpts})
    for conf in (matcher_conf, sem_loss_conf):
        require("mask_loss_conf", conf["mask_loss_conf"], {"ce_weight": 1, "dice_weight": 1})
    weights = criterion_conf["weight_dict"]
    return CriterionConfig(
        cost_object=matcher_conf["cost_obj"],
        cost_mask=matcher_conf["cost_mask"],
        cost_points=matcher_conf["cost_pts"],
        end_point_weight=coe_endpts,
        no_object_weight=no_object_coe,
        collinear_weight=collinear_pts_coe,
        weight_semantic=weights["sem_msk_loss"],
        weight_object=weights["ins_obj_loss"],
        weight_mask=weights["ins_msk_loss"],
        weight_points=weights["pts_loss"],
        weight_collinear=weights["collinear_pts_loss"],
        weight_point_logits=weights["pt_logits_loss"],
        decoder_weights=tuple(criterion_conf["decoder_weights"]),
        bev_weights=tuple(sem_loss_conf["decoder_weights"]),
    )
