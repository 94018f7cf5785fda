"""Camera features -> BEV features, by deformable attention (upstream: bev_decoder.bev_encoder). Letters in shapes: B
samples, V cameras, S cells of both feature levels with the cameras side by side, N BEV cells, C channels, E decoder
layers."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pivotnet.config import CAMERAS, ModelConfig
from pivotnet.model.layers import add_branch, copies, run
from pivotnet.model.ops.add_layer_norm import add_layer_norm
from pivotnet.model.ops.deformable_attention import multi_scale_deformable_attention
from pivotnet.model.ops.sync_batch_norm import SyncBatchNorm

Size = tuple[int, int]


class BevEncoder(nn.Module):
    """Deformable encoder over the camera features, and decoder that fills the BEV grid from them."""

    image_order: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = config.hidden
        self.cameras = len(CAMERAS)
        source_sizes = tuple((height, width * self.cameras) for height, width in config.feature_sizes)
        # Upstream mirrors the cameras with it where images are flipped, which no configuration does.
        self.register_buffer("image_order", torch.tensor([2, 1, 0, 5, 4, 3]))
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, channels, kernel_size=1, bias=False), SyncBatchNorm(channels))
            for width in config.backbone_channels
        )
        self.encoder = _Layers(EncoderLayer(config, source_sizes), config.bev_encoder_layers)
        self.decoder = _Layers(DecoderLayer(config, source_sizes), config.bev_decoder_layers)
        self.t2s_reference_points = nn.Linear(channels, 2)
        self._reset_parameters()
        # After that pass: embeddings keep their N(0, 1).
        self.src_pos_embed = nn.ModuleList(GridEmbedding(size, channels) for size in source_sizes)
        self.tgt_pos_embed = GridEmbedding(config.bev_size, channels)
        self.tgt_embed = GridEmbedding(config.bev_size, channels)
        source_centres = torch.cat([cell_centres(size) for size in source_sizes], dim=1)
        self.register_buffer("source_centres", source_centres, persistent=False)
        self.register_buffer("bev_centres", cell_centres(config.bev_size), persistent=False)

    def _reset_parameters(self) -> None:
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.reset_parameters()
        nn.init.zeros_(self.t2s_reference_points.bias)

    def forward(self, features: list[Tensor], reference_points: Tensor, reference_valid: Tensor) -> list[Tensor]:
        """BEV features of every decoder layer, [B, N, C] each, of camera features, of each level [B*V, width, h, w].
        ``reference_points``: [B, N, 2] (x, y) of each BEV cell in the side-by-side image; where ``reference_valid``,
        bool [B, N], is False, the cell samples around a learned position."""
        tokens: list[Tensor] = []
        positions: list[Tensor] = []
        for level, projection, embedding in zip(features, self.input_proj, self.src_pos_embed):
            # A 1x1 convolution and a batch norm do not see where the cameras lie: project first, then rearrange.
            projected = projection(level).unflatten(0, (-1, self.cameras))  # [B, V, C, h, w]
            tokens.append(projected.permute(0, 3, 1, 4, 2).flatten(1, 3))
            positions.append(embedding.get_parameter("pos_embed.weight"))
        position = torch.cat(positions)[None]  # [1, S, C]
        # The position goes into the source itself and, in every layer, into the queries once more.
        position, *own_positions = copies(position, 1 + len(self.encoder.layers))
        source = torch.cat(tokens, dim=1) + position  # [B, S, C]
        for layer, own_position in zip(self.encoder.layers, own_positions):
            source = layer(source, own_position, self.source_centres)

        bev_position = self.tgt_pos_embed.pos_embed.weight[None]  # [1, N, C]
        learned = self.t2s_reference_points(bev_position).sigmoid()  # [1, N, 2]
        reference = torch.where(reference_valid[..., None], reference_points, learned)  # [B, N, 2]
        reference = reference.view(len(source), -1, 1, 1, 1, 2)
        bev = self.tgt_embed.pos_embed.weight.expand(len(source), -1, -1)  # [B, N, C]
        outputs = []
        count = len(self.decoder.layers)
        for layer, *own in zip(self.decoder.layers, copies(bev_position, count), copies(reference, count)):
            bev = layer(bev, own[0], self.bev_centres, source, own[1])
            outputs.append(bev)
        return outputs


class GridEmbedding(nn.Module):
    """A learned vector for each cell of a grid, row by row: pos_embed.weight [rows * columns, C]."""

    def __init__(self, size: Size, channels: int) -> None:
        super().__init__()
        self.pos_embed = nn.Embedding(size[0] * size[1], channels)


class EncoderLayer(nn.Module):
    """Deformable self-attention over the camera features, then a feed-forward network; both post-norm."""

    def __init__(self, config: ModelConfig, source_sizes: tuple[Size, ...]) -> None:
        super().__init__()
        channels = config.hidden
        self.self_attn = DeformableAttention(config, source_sizes)
        self.norm1 = nn.LayerNorm(channels)
        self.linear1 = nn.Linear(channels, config.bev_feedforward)
        self.linear2 = nn.Linear(config.bev_feedforward, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.dropout = Dropout(config.dropout)

    def forward(self, source: Tensor, position: Tensor, centres: Tensor) -> Tensor:
        """[B, S, C] -> [B, S, C]; position [1, S, C], centres [1, S, 1, 1, 1, 2]."""
        attended = self.self_attn(source + position, centres, source)
        source, _ = add_layer_norm(self.norm1, source, self.dropout(attended))
        # ReLU after dropout is the same, and the backward pass keeps one large tensor less.
        widened = F.relu(self.dropout(self.linear1(source)))
        return add_layer_norm(self.norm2, source, self.dropout(self.linear2(widened)))[0]


class DecoderLayer(nn.Module):
    """Deformable attention over the BEV grid itself, then into the cameras, then a feed-forward network; post-norm."""

    def __init__(self, config: ModelConfig, source_sizes: tuple[Size, ...]) -> None:
        super().__init__()
        channels = config.hidden
        self.cross_attn = DeformableAttention(config, source_sizes)
        self.norm1 = nn.LayerNorm(channels)
        self.self_attn = DeformableAttention(config, (config.bev_size,))
        self.norm2 = nn.LayerNorm(channels)
        self.linear1 = nn.Linear(channels, config.bev_feedforward)
        self.linear2 = nn.Linear(config.bev_feedforward, channels)
        self.norm3 = nn.LayerNorm(channels)
        self.dropout = Dropout(config.dropout)

    def forward(self, bev: Tensor, position: Tensor, centres: Tensor, source: Tensor, reference: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]; position [1, N, C], source [B, S, C], centres and reference [., N, 1, 1, 1, 2]."""
        bev, _ = add_layer_norm(self.norm2, bev, self.dropout(self.self_attn(bev + position, centres, bev)))
        bev, _ = add_layer_norm(self.norm1, bev, self.dropout(self.cross_attn(bev + position, reference, source)))
        widened = F.relu(self.dropout(self.linear1(bev)))
        return add_layer_norm(self.norm3, bev, self.dropout(self.linear2(widened)))[0]


class Dropout(nn.Dropout):
    """nn.Dropout in one launch on every device; keeps a mask of one byte a value on the CPU too."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.native_dropout(x, self.p, True)[0] if self.training and self.p else x


class DeformableAttention(nn.Module):
    """Projections around multi-scale deformable attention, in float32: not under autocast."""

    cell_size: Tensor

    def __init__(self, config: ModelConfig, sizes: tuple[Size, ...]) -> None:
        super().__init__()
        channels, heads, points = config.hidden, config.heads, config.deformable_points
        self.heads, self.points, self.sizes, self.checkpointing = heads, points, sizes, config.checkpointing
        samples = heads * len(sizes) * points
        self.sampling_offsets = nn.Linear(channels, samples * 2)
        self.attention_weights = nn.Linear(channels, samples)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        # (1 / w, 1 / h) of the levels, [levels, 1, 2]: offsets count cells
        cell_size = torch.tensor([(1 / width, 1 / height) for height, width in sizes])
        self.register_buffer("cell_size", cell_size[:, None], persistent=False)

    def reset_parameters(self) -> None:
        """Each head looks along its own direction, its points 1, 2, ... cells away; all samples weigh the same."""
        angles = torch.arange(self.heads, dtype=torch.float32) * (2.0 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)  # [heads, 2]
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        offsets = directions[:, None, None] * torch.arange(1, self.points + 1)[:, None]  # [heads, 1, points, 2]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, len(self.sizes), -1, -1).reshape(-1))
        nn.init.zeros_(self.sampling_offsets.weight)
        for tensor in (*self.attention_weights.parameters(), self.value_proj.bias, self.output_proj.bias):
            nn.init.zeros_(tensor)
        nn.init.xavier_uniform_(self.value_proj.weight)
        nn.init.xavier_uniform_(self.output_proj.weight)

    def forward(self, query: Tensor, reference: Tensor, source: Tensor) -> Tensor:
        """Sample ``source`` [B, S, C] around ``reference`` [B or 1, L, 1, 1, 1, 2] as ``query`` asks: [B, L, C]."""
        return run(self._attend, self.checkpointing, query, reference, source)

    def _attend(self, query: Tensor, reference: Tensor, source: Tensor) -> Tensor:
        batch, length, channels = query.shape
        samples = (batch, length, self.heads, len(self.sizes), self.points)
        value = self.value_proj(source).view(batch, -1, self.heads, channels // self.heads)
        offsets = self.sampling_offsets(query).view(*samples, 2)
        locations = add_branch(reference, offsets, self.cell_size)
        weights = self.attention_weights(query).view(batch, length, self.heads, -1).softmax(-1).view(samples)
        attended = multi_scale_deformable_attention(value, self.sizes, locations, weights)
        return self.output_proj(attended)


class _Layers(nn.Module):
    """Copies of one layer, as upstream makes them: the copies share their initial biases."""

    def __init__(self, layer: nn.Module, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(count))


def cell_centres(size: Size) -> Tensor:
    """(x, y) in [0, 1] of the cell centres of a grid of (rows, columns), row by row, the same for all heads, levels and
    points: float32 [1, rows * columns, 1, 1, 1, 2]."""
    y, x = ((torch.arange(cells, dtype=torch.float32) + 0.5) / cells for cells in size)
    return torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1).view(1, -1, 1, 1, 1, 2)
