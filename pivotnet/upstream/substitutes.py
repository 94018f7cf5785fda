"""What upstream takes from packages that it need not have: mmcv, torchvision, and detectron2's PointRend (Kirillov et
al., arXiv:1912.08193)."""

from types import SimpleNamespace
from typing import Any, Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# what upstream's transforms and utilities call of these packages
mmcv = SimpleNamespace(is_str=lambda value: isinstance(value, str))
torchvision = SimpleNamespace(_is_tracing=torch.jit.is_tracing)


def point_sample(input: Tensor, point_coords: Tensor, **kwargs: Any) -> Tensor:
    """Bilinear samples of [N, C, H, W] at [N, P, 2] (x, y) in [0, 1]: [N, C, P]; ``kwargs`` are grid_sample's."""
    return F.grid_sample(input, 2.0 * point_coords.unsqueeze(2) - 1.0, **kwargs).squeeze(3)


def get_uncertain_point_coords_with_randomness(
    coarse_logits: Tensor,
    uncertainty_func: Callable[[Tensor], Tensor],
    num_points: int,
    oversample_ratio: float,
    importance_ratio: float,
) -> Tensor:
    """Points [N, P, 2] (x, y) in [0, 1] where masks of ``coarse_logits`` [N, C, H, W] are uncertain, and some anywhere
    (section 3.3, training). ``uncertainty_func``: logits [N, C, P] -> uncertainties [N, 1, P]; ``oversample_ratio``:
    random candidates a point; ``importance_ratio``: share of the points that are the most uncertain candidates; the
    rest is drawn anew."""
    count, device = len(coarse_logits), coarse_logits.device
    candidates = torch.rand(count, int(num_points * oversample_ratio), 2, device=device)
    uncertainty = uncertainty_func(point_sample(coarse_logits, candidates, align_corners=False))
    chosen = int(importance_ratio * num_points)
    indices = uncertainty[:, 0].topk(chosen, dim=1).indices
    points = candidates.gather(1, indices[..., None].expand(-1, -1, 2))
    return torch.cat([points, torch.rand(count, num_points - chosen, 2, device=device)], dim=1)
