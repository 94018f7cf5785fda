"""Point queries -> coordinates and validity; BEV features -> semantic masks (upstream: output_head). Upstream upsamples
all masks here; ours stay on the BEV grid, and the criterion upsamples what it compares. Letters in shapes: B samples, D
line decoder layers, E BEV decoder layers, C=3 classes, T points, N BEV cells, H x W map pixels, F point features."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pivotnet.config import CLASSES, MapConfig, ModelConfig
from pivotnet.model.layers import Mlp, run
from pivotnet.model.line_decoder import LineFeatures
from pivotnet.structures import Predictions


class PointHead(nn.Module):
    """One multi-layer perceptron per class for coordinates, one for validity, and the semantic heads."""

    coordinates: Tensor

    def __init__(self, model: ModelConfig, map_config: MapConfig) -> None:
        super().__init__()
        self.checkpointing = model.checkpointing
        features, hidden = model.point_features, model.head_hidden
        rows, columns = (size // model.mask_stride for size in map_config.map_size)
        self.semantic_heads = nn.ModuleList(nn.Sequential(nn.Conv2d(model.hidden, 2, kernel_size=1)) for _ in CLASSES)
        self.im_ctr_heads = nn.ModuleList(Mlp((model.hidden, hidden, hidden, 2 * features)) for _ in CLASSES)
        self.pts_cls_heads = nn.ModuleList(Mlp((2 * features, 2 * features, 2 * features, 2)) for _ in CLASSES)
        self.coords_head = _PixelMlp((2, hidden, hidden, features))
        y, x = torch.meshgrid(torch.arange(rows).float() / rows, torch.arange(columns).float() / columns, indexing="ij")
        # (column, row) of every map pixel in [0, 1), [H * W, 2]
        self.register_buffer("coordinates", torch.stack([x, y], dim=-1).reshape(-1, 2), persistent=False)

    def forward(
        self, lines: LineFeatures, bev: list[Tensor], size: tuple[int, int], mean_features: Tensor
    ) -> Predictions:
        """Predict the points from the decoder's features, and, where it has predicted masks, semantic masks from the
        BEV features of all decoder layers, [B, N, hidden] each, on the grid of ``size``."""
        features = [head(part) for head, part in zip(self.im_ctr_heads, lines.points)]  # [D, B, points, 2F]
        logits = torch.cat([head(part) for head, part in zip(self.pts_cls_heads, features)], dim=2)
        halves = torch.cat(features, dim=2).unflatten(-1, (2, -1))  # [D, B, T, 2, F]
        predictions = Predictions(lines.object_logits, (halves @ mean_features).sigmoid(), logits)
        if lines.mask_logits is not None:
            predictions.masks = lines.mask_logits.unflatten(-1, size)
            predictions.semantic_logits = self.semantic(torch.stack(bev)).unflatten(-1, size)
        return predictions

    def mean_coordinate_features(self) -> Tensor:
        """Coordinate features averaged over the map, float32 [F]. Upstream multiplies the features of every pixel with
        those of every point and averages the products. The average of a product with a constant is the product with the
        average, and the last layer is linear too."""
        return run(self.coords_head.mean, self.checkpointing, self.coordinates)

    def semantic(self, bev: Tensor) -> Tensor:
        """BEV features [E, B, N, hidden] -> semantic logits [E, B, C, 2, N]."""
        layers = [cast(nn.Conv2d, cast(nn.Sequential, head)[0]) for head in self.semantic_heads]
        weight = torch.cat([layer.weight for layer in layers]).flatten(1)  # [2C, hidden]
        bias = torch.cat([cast(Tensor, layer.bias) for layer in layers])
        logits = F.linear(bev, weight, bias).transpose(2, 3)  # [E, B, 2C, N]
        return logits.unflatten(2, (-1, 2))


class _PixelMlp(nn.Module):
    """1x1 convolutions with ReLU between them, the mean of whose output over all pixels is wanted."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(narrow, wide, 1) for narrow, wide in zip(widths, widths[1:]))

    def mean(self, pixels: Tensor) -> Tensor:
        """[pixels, widths[0]] -> [widths[-1]]."""
        *hidden, last = (
            (layer.get_parameter("weight").flatten(1), layer.get_parameter("bias")) for layer in self.layers
        )
        for weight, bias in hidden:
            pixels = F.relu(F.linear(pixels, weight, bias), inplace=True)
        return F.linear(pixels.mean(dim=0), *last)
