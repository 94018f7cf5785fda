"""Keyword arguments as upstream's configs give them, at full size and small."""

from typing import Any

MAP = {"ego_size": (60, 30), "map_resolution": 0.15, "map_size": (400, 200)}
MAP |= {"mask_key": "instance_mask8", "line_width": 8, "save_thickness": 1}
PIVOT = {"max_pieces": (10, 2, 30)}


def bev(**changes: Any) -> dict[str, Any]:
    sizes = {"in_channels": [384, 768], "src_shape": [(32, 336), (16, 168)], "tgt_shape": (64, 32), "d_model": 256}
    layers = {"num_encoder_layers": 4, "num_decoder_layers": 4, "n_heads": 8, "dim_feedforward": 1024, "dropout": 0.1}
    points = {"dec_n_points": 8, "enc_n_points": 8, "use_checkpoint": False, "use_projection": True}
    encoding = {"src_pos_encode": "learned", "tgt_pos_encode": "learned", "activation": "relu"}
    grid = {"map_size": (400, 200), "map_resolution": 0.15, "image_shape": (900, 1600), "return_intermediate_dec": True}
    return {**sizes, **layers, **points, **encoding, **grid, **changes}


def line(**changes: Any) -> dict[str, Any]:
    """ins_decoder's net_kwargs without decoder_ids."""
    sizes = {"in_channels": 256, "hidden_dim": 256, "mask_dim": 256, "nheads": 8, "dim_feedforward": 2048}
    layers = {"dec_layers": 6, "pre_norm": False, "num_feature_levels": 1, "enforce_input_project": False}
    lines = {"mask_classification": True, "num_classes": 1, "query_split": (20, 25, 15), **PIVOT}
    return {**sizes, **layers, **lines, **changes}


def post_processor(**changes: Any) -> dict[str, Any]:
    masks = {"ce_weight": 1, "dice_weight": 1}
    weights = {"sem_msk_loss": 3, "ins_obj_loss": 2, "ins_msk_loss": 5, "pts_loss": 30, "collinear_pts_loss": 10}
    return {
        "criterion_conf": {
            "weight_dict": {**weights, "pt_logits_loss": 2},
            "decoder_weights": [0.4, 0.4, 0.4, 0.8, 1.2, 1.6],
        },
        "matcher_conf": {"cost_obj": 2, "cost_mask": 5, "coe_endpts": 5, "cost_pts": 30, "mask_loss_conf": masks},
        "pivot_conf": PIVOT,
        "map_conf": MAP,
        "sem_loss_conf": {"decoder_weights": [0.4, 0.8, 1.6, 2.4], "mask_loss_conf": masks},
        "no_object_coe": 0.5,
        "collinear_pts_coe": 0.2,
        "coe_endpts": 5,
        **changes,
    }
