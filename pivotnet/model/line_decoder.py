"""BEV features -> point queries, by masked attention (upstream: ins_decoder.bev_decoder). The queries are the points of
all instances. An instance's points, joined, predict its class and its mask; the mask says where all its points may look
in the next layer. Letters in shapes: B samples, D layers, Q instances, T points, P points of an instance, N BEV cells,
C channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pivotnet.config import MapConfig, ModelConfig
from pivotnet.model.layers import Mlp, copies
from pivotnet.model.ops.add_layer_norm import add_layer_norm
from pivotnet.model.ops.attention import attention

Projection = tuple[Tensor, Tensor]  # weight and bias of a linear map


@dataclass
class LineFeatures:
    """What the decoder hands to the heads; D is 1 when only the last layer was asked for."""

    points: list[Tensor]  # of each class [D, B, instances * P, C], normalised
    object_logits: Tensor  # [D, B, Q, 2]
    mask_logits: Tensor | None  # [D, B, Q, N] float32; None when only the last layer was asked for


class LineDecoder(nn.Module):
    """Line-aware point decoder: masked cross-attention, self-attention and feed-forward layers, all post-norm."""

    instance_of_point: Tensor
    own_class: Tensor
    position: Tensor

    def __init__(self, model: ModelConfig, map_config: MapConfig) -> None:
        super().__init__()
        channels, layers = model.hidden, model.line_decoder_layers
        self.instances, self.points = map_config.num_queries, map_config.max_points
        self.query_feat = nn.Parameter(torch.randn(map_config.total_points, channels))
        self.query_embed = nn.Parameter(torch.randn(map_config.total_points, channels))
        heads, width = model.heads, model.line_feedforward
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(channels, heads) for _ in range(layers)
        )
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(channels, heads) for _ in range(layers)
        )
        self.transformer_ffn_layers = nn.ModuleList(FeedForwardLayer(channels, width) for _ in range(layers))
        self.decoder_norm = nn.LayerNorm(channels)
        self.level_embed = nn.Embedding(1, channels)
        self.class_embed = nn.ModuleList(nn.Linear(channels * points, 2) for points in self.points)
        self.mask_embed = nn.ModuleList(
            Mlp((channels * points, channels, channels, channels)) for points in self.points
        )
        instances, points = torch.tensor(self.instances), torch.tensor(self.points)
        lengths = points.repeat_interleave(instances)  # [Q] points of each instance
        labels, numbers = torch.arange(len(instances)).repeat_interleave(instances), torch.arange(len(lengths))  # [Q]
        instance_of_point = numbers.repeat_interleave(lengths).int()
        own_class = (numbers * len(instances) + labels).int()
        self.register_buffer("instance_of_point", instance_of_point, persistent=False)  # [T]
        # row of an instance's own class where every instance has one row for each class, [Q]
        self.register_buffer("own_class", own_class, persistent=False)
        self.register_buffer("position", sine_position(model.bev_size, channels), persistent=False)  # [N, C]

    def forward(self, bev: Tensor, final_only: bool = False) -> LineFeatures:
        """Decode the last BEV output, [B, N, C]; ``final_only``: predict from the last layer alone, and no masks."""
        memory = bev + self.level_embed.weight  # [B, N, C]; masks are read off the features without it
        cross = [cast(CrossAttentionLayer, layer) for layer in self.transformer_cross_attention_layers]
        queries, key, value = _projections([layer.multihead_attn for layer in cross], (1, 1, 1))
        keys = _of_layers(memory + self.position, key)
        values = _of_layers(memory, value)
        own = [cast(SelfAttentionLayer, layer) for layer in self.transformer_self_attention_layers]
        own_projections = zip(*(_by_layer(*kind) for kind in _projections([layer.self_attn for layer in own], (2, 1))))
        mask_layers = self._joined_mask_layers()
        points = self.query_feat.expand(len(bev), -1, -1)  # [B, T, C]
        outputs = []
        query_embed = iter(copies(self.query_embed[None], len(cross) + len(own)))  # [1, T, C] each
        for index, (query, (query_key, of_value)) in enumerate(zip(_by_layer(*queries), own_projections)):
            masked = self._attention_mask(points, bev, mask_layers)
            points = cross[index](points, next(query_embed), query, keys[index], values[index], masked)
            points = own[index](points, next(query_embed), query_key, of_value)
            points = self.transformer_ffn_layers[index](points)
            outputs.append(points)
        # Predictions do not feed back other than through the masks, so all layers are predicted from at once.
        features = self.decoder_norm(torch.stack(outputs[-1:] if final_only else outputs))  # [D, B, T, C]
        classes = self._split(features)
        joined = self._join(classes)
        logits = torch.cat([head(part) for head, part in zip(self.class_embed, joined)], dim=2)
        masks = None
        if not final_only:
            embedding = torch.cat([mlp(part) for mlp, part in zip(self.mask_embed, joined)], dim=2)
            masks = torch.einsum("dbqc,bnc->dbqn", embedding, bev)  # [D, B, Q, N]
        return LineFeatures(classes, logits, masks)

    def _split(self, features: Tensor) -> list[Tensor]:
        """[..., T, C] -> of each class a contiguous [..., instances * P, C]."""
        parts = features.split([q * p for q, p in zip(self.instances, self.points)], dim=-2)
        return [part.contiguous() for part in parts]

    def _join(self, parts: list[Tensor]) -> list[Tensor]:
        """Points of each class [..., instances * P, C] -> its instances [..., instances, P * C]."""
        return [part.view(*part.shape[:-2], count, -1) for part, count in zip(parts, self.instances)]

    @torch.no_grad()
    def _attention_mask(self, points: Tensor, bev: Tensor, mask_layers: list[Projection]) -> Tensor:
        """Which BEV cells each point query [B, T, C] may not look at: bool [B, 1, T, N]. No gradient passes through it,
        so it costs no backward pass; the masks that are trained are made once for all layers."""
        joined = self._join(self._split(self.decoder_norm(points)))
        first = [cast(Mlp, mlp).layer(0)(part) for mlp, part in zip(self.mask_embed, joined)]
        hidden = torch.cat(first, dim=1)  # [B, Q, C]
        for weight, bias in mask_layers:
            of_all_classes = F.linear(F.relu(hidden), weight, bias).view(len(hidden), -1, hidden.shape[-1])
            hidden = of_all_classes.index_select(1, self.own_class)
        logits = hidden @ bev.transpose(1, 2)  # [B, Q, N]
        masked = self.masked(logits)
        masked = masked != masked.all(dim=-1, keepdim=True)  # an instance whose cells are all masked looks everywhere
        return masked.index_select(1, self.instance_of_point)[:, None]

    @staticmethod
    def masked(logits: Tensor) -> Tensor:
        """Which cells are masked; upstream compares the probability: in float32 that differs just below zero."""
        return logits.sigmoid() < 0.5

    @torch.no_grad()
    def _joined_mask_layers(self) -> list[Projection]:
        """The second and third layer of the classes' mask perceptrons, each as one [classes * C, C]."""
        layers = [[cast(Mlp, mlp).layer(number) for mlp in self.mask_embed] for number in (1, 2)]
        return [(torch.cat([one.weight for one in same]), torch.cat([one.bias for one in same])) for same in layers]


def _projections(layers: list[Attention], kinds: tuple[int, ...]) -> list[Projection]:
    """Weights [layers, k C, C] and biases [layers, k C] of all layers, for each of ``kinds``: k of query, key, value.
    Joined first and split then, their gradients are joined once, not layer by layer."""
    weight = torch.stack([layer.in_proj_weight for layer in layers])
    bias = torch.stack([layer.in_proj_bias for layer in layers])
    sizes = [kind * weight.shape[2] for kind in kinds]
    return list(zip(weight.split(sizes, dim=1), bias.split(sizes, dim=1)))


def _by_layer(weight: Tensor, bias: Tensor) -> list[Projection]:
    return list(zip(weight.unbind(), bias.unbind()))


def _of_layers(source: Tensor, projection: Projection) -> list[Tensor]:
    """The projections of the same [B, N, C] by all layers, from one product."""
    weight, bias = projection
    return list(F.linear(source, weight.flatten(0, 1), bias.flatten()).chunk(len(weight), dim=-1))


class Attention(nn.MultiheadAttention):
    """Its parameters, but queries, keys and values come projected."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, heads)
        nn.init.xavier_uniform_(self.out_proj.weight)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, masked: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Attend with projected [B, T, C], [B, N, C], [B, N, C]; masked: bool [B, 1, T, N]. Returns [B, T, C]."""
        return self.out_proj(attention(query, key, value, self.num_heads, masked))


class CrossAttentionLayer(nn.Module):
    """The point queries look at the BEV cells that their instance's mask leaves open."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.multihead_attn = Attention(channels, heads)
        self.norm = nn.LayerNorm(channels)

    def forward(
        self, points: Tensor, query_embed: Tensor, projection: Projection, keys: Tensor, values: Tensor, masked: Tensor
    ) -> Tensor:
        """Points [B, T, C], projected to queries here, look at keys and values that are so already, [B, N, C]."""
        query = F.linear(points + query_embed, *projection)
        return add_layer_norm(self.norm, points, self.multihead_attn(query, keys, values, masked))[0]


class SelfAttentionLayer(nn.Module):
    """The point queries look at each other."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(channels, heads)
        self.norm = nn.LayerNorm(channels)

    def forward(self, points: Tensor, query_embed: Tensor, query_key: Projection, of_value: Projection) -> Tensor:
        """[B, T, C] -> [B, T, C]; query_embed [1, T, C] goes into queries and keys, not into values."""
        query, key = F.linear(points + query_embed, *query_key).chunk(2, dim=-1)
        value = F.linear(points, *of_value)
        return add_layer_norm(self.norm, points, self.self_attn(query, key, value))[0]


class FeedForwardLayer(nn.Module):
    """Two linear layers with ReLU between, and a residual."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, width)
        self.linear2 = nn.Linear(width, channels)
        self.norm = nn.LayerNorm(channels)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, points: Tensor) -> Tensor:
        return add_layer_norm(self.norm, points, self.linear2(F.relu(self.linear1(points))))[0]


def sine_position(size: tuple[int, int], channels: int) -> Tensor:
    """Sine position embedding of a grid, row by row (Carion et al., DETR, arXiv:2005.12872, appendix A.4). The first
    half of the channels encodes the row, the second the column; counted from 1 and scaled to 2 pi at the last one,
    without the half-cell shift that later papers added. Returns float32 [rows * columns, channels]."""
    half = channels // 2
    frequency = 10000 ** (2 * (torch.arange(half, dtype=torch.float32) // 2) / half)
    encoded = []
    for cells in size:
        angle = torch.arange(1, cells + 1, dtype=torch.float32) / (cells + 1e-6) * (2 * math.pi)
        angle = angle[:, None] / frequency  # [cells, half]
        encoded.append(torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1))
    rows, columns = size
    by_row = encoded[0][:, None].expand(-1, columns, -1)
    by_column = encoded[1][None].expand(rows, -1, -1)
    return torch.cat([by_row, by_column], dim=2).reshape(rows * columns, channels)
