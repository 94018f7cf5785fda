"""Swin-T (Liu et al., 2021, https://arxiv.org/abs/2103.14030): attention within windows of 7 x 7 tokens that move by
half a window in every other block.

Letters in shapes: B images, H x W tokens, C channels, h heads, d = C/h channels a head (32), N = 49 tokens a window,
L windows an image.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pivotnet.model.layers import StochasticDepth, add_branch, run

WINDOW = 7  # tokens along a side of a window
SHIFT = WINDOW // 2  # tokens by which every other block moves its windows
PATCH = 4  # pixels along a side of a token of the first stage
CHANNELS = 96
DEPTHS = (2, 2, 6, 2)
HEADS = (3, 6, 12, 24)
MLP_RATIO = 4
MASKED = -100.0  # added to the scores of tokens that only the cyclic shift made neighbours
FEATURE_STAGES = (2, 3)  # whose outputs have strides 16 and 32


@functools.lru_cache(maxsize=64)
def zero_strip(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Padding, made once for each shape; nobody writes into it."""
    with torch.inference_mode(False):  # made maybe in evaluation, and then used in training too
        return torch.zeros(shape, dtype=dtype, device=device)


def pad_and_shift(x: Tensor, dim: int, shift: int) -> Tensor:
    """Zeros after the end up to whole windows, then a cyclic shift by ``shift`` towards the front, in one copy."""
    pad = -x.shape[dim] % WINDOW
    pieces = [x]
    if pad:
        strip = zero_strip((*x.shape[:dim], pad, *x.shape[dim + 1 :]), x.dtype, x.device)
        pieces = [x, strip]
    if x.shape[dim] < shift:  # the shift moves some of the padding too: make it part of the map
        pieces = [torch.cat(pieces, dim)]
    if shift:
        front, rest = pieces[0].split([shift, pieces[0].shape[dim] - shift], dim)
        pieces = [rest, *pieces[1:], front]
    return torch.cat(pieces, dim) if len(pieces) > 1 else x


def unshift_and_crop(x: Tensor, dim: int, shift: int, length: int) -> Tensor:
    """Undo ``pad_and_shift`` of a dimension that had ``length`` elements."""
    if shift:
        rest = max(length - shift, 0)
        pieces = x.split([rest, x.shape[dim] - rest - shift, shift], dim)
        x = torch.cat([pieces[2], pieces[0]], dim)
    return x.narrow(dim, 0, length) if x.shape[dim] > length else x


def relative_position_index() -> Tensor:
    """Row of the bias table for each pair of tokens of a window: int64 [N, N]."""
    axis = torch.arange(WINDOW)
    rows = (axis[:, None] - axis[None, :] + WINDOW - 1).view(WINDOW, 1, WINDOW, 1)
    columns = (axis[:, None] - axis[None, :] + WINDOW - 1).view(1, WINDOW, 1, WINDOW)
    return (rows * (2 * WINDOW - 1) + columns).reshape(WINDOW**2, WINDOW**2)


@functools.lru_cache(maxsize=32)
def shift_mask(height: int, width: int, device: torch.device) -> Tensor:
    """What shifted windows of a padded map of ``height`` x ``width`` tokens add to the scores: float32 [L, 1, N, N].

    The cyclic shift joins strips of opposite edges in one window; their tokens must not see each other.
    """
    with torch.inference_mode(False):  # as above
        strip = []
        for length in (height, width):
            position = torch.arange(length)
            strip.append((position >= length - WINDOW).long() + (position >= length - SHIFT).long())
        region = strip[0][:, None] * 3 + strip[1][None, :]
        region = region.view(height // WINDOW, WINDOW, width // WINDOW, WINDOW).permute(0, 2, 1, 3)
        region = region.reshape(-1, WINDOW**2)
        separate = region[:, None, :] != region[:, :, None]
        return torch.zeros(separate.shape).masked_fill(separate, MASKED).unsqueeze(1).to(device)


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows, with a learned bias for each relative position."""

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_position_index())
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, bias: Tensor, shift: int) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]; ``bias``: added to the scores, [1 or L, h, N, N]; ``shift``: of the windows."""
        batch, height, width, channels = x.shape
        x = pad_and_shift(pad_and_shift(x, 1, shift), 2, shift)
        rows, columns = x.shape[1] // WINDOW, x.shape[2] // WINDOW
        tokens = rows * columns, WINDOW**2

        x = x.view(batch, rows, WINDOW, columns, WINDOW, channels).transpose(2, 3)
        qkv = self.qkv(x.reshape(batch, *tokens, channels)).view(batch, *tokens, 3, self.heads, -1)
        query, key, value = qkv.permute(3, 0, 1, 4, 2, 5).contiguous().unbind()  # [B, L, h, N, d]
        scores = torch.add(bias, query @ key.transpose(-2, -1), alpha=self.scale)
        x = scores.softmax(-1) @ value

        x = x.view(batch, rows, columns, self.heads, WINDOW, WINDOW, -1).permute(0, 1, 4, 2, 5, 3, 6)
        x = x.reshape(batch, rows * WINDOW, columns * WINDOW, channels)
        # tokens are projected one by one, so that the padding can go before
        x = unshift_and_crop(unshift_and_crop(x, 2, shift, width), 1, shift, height)
        return self.proj(x)


class SwinBlock(nn.Module):
    """Attention and MLP, each with a norm before it and a shortcut around it."""

    def __init__(self, channels: int, heads: int, shift: int) -> None:
        super().__init__()
        self.shift = shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        wide = MLP_RATIO * channels
        layers = {"fc1": nn.Linear(channels, wide), "gelu": nn.GELU(), "fc2": nn.Linear(wide, channels)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor, bias: Tensor, attention_scale: Tensor | None, mlp_scale: Tensor | None) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]; ``bias``: of relative positions [h, N, N]; scales: of stochastic depth."""
        bias = bias.unsqueeze(0)
        if self.shift:
            height, width = (length + -length % WINDOW for length in x.shape[1:3])
            bias = bias + shift_mask(height, width, x.device)
        x = add_branch(x, self.attn(self.norm1(x), bias, self.shift), attention_scale)
        return add_branch(x, self.mlp(self.norm2(x)), mlp_scale)


class PatchMerging(nn.Module):
    """Halves the map and doubles the channels: a norm and a linear layer on each 2 x 2 tokens."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, ceil(H/2), ceil(W/2), 2C]."""
        batch, height, width, channels = x.shape
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        x = x.view(batch, (height + 1) // 2, 2, (width + 1) // 2, 2, channels)
        return self.reduction(self.norm(x.permute(0, 1, 3, 4, 2, 5).flatten(3)))  # column by column of the 2 x 2


class SwinStage(nn.Module):
    """The blocks of one resolution, and the merging to the next."""

    def __init__(self, channels: int, depth: int, heads: int, merge: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(SwinBlock(channels, heads, SHIFT * (index % 2)) for index in range(depth))
        self.downsample = PatchMerging(channels) if merge else None

    def forward(
        self, x: Tensor, biases: Iterator[Tensor], scales: Iterator[Tensor | None], checkpointing: bool
    ) -> tuple[Tensor, Tensor]:
        """[B, H, W, C] -> the same shape, and its merging; takes a bias and two scales a block from the iterators."""
        for block in self.blocks:
            x = run(block, checkpointing, x, next(biases), next(scales), next(scales))
        return x, x if self.downsample is None else run(self.downsample, checkpointing, x)


class PatchEmbed(nn.Module):
    """Image -> tokens, one for each 4 x 4 pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, PATCH, PATCH)
        self.norm = nn.LayerNorm(channels)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, height, width] -> [B, ceil(height/4), ceil(width/4), C]."""
        bottom, right = (-length % PATCH for length in images.shape[-2:])
        if bottom or right:
            images = F.pad(images, (0, right, 0, bottom))
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class SwinTransformer(nn.Module):
    """Swin-T without its classifier.

    Args:
        drop_path: largest rate of stochastic depth; it rises linearly from 0 over the blocks.
        checkpointing: recompute blocks, patches and mergings in the backward pass instead of keeping their activations.
        feature_stages: stages whose outputs are returned; stage s has stride 4 * 2^s.
    """

    def __init__(self, drop_path: float, checkpointing: bool, feature_stages: tuple[int, ...] = FEATURE_STAGES) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.feature_stages = feature_stages
        self.patch_embed = PatchEmbed(CHANNELS)
        self.layers = nn.ModuleList(
            SwinStage(CHANNELS << stage, depth, heads, merge=stage + 1 < len(DEPTHS))
            for stage, (depth, heads) in enumerate(zip(DEPTHS, HEADS))
        )
        for stage in feature_stages:
            self.add_module(f"norm{stage}", nn.LayerNorm(CHANNELS << stage))
        rates = torch.linspace(0, drop_path, sum(DEPTHS)).tolist()
        self.stochastic_depth = StochasticDepth([rate for rate in rates for _ in ("attention", "mlp")])

    def position_biases(self) -> list[Tensor]:
        """Bias of each block's scores, [h, N, N] each; looked up for all blocks at once."""
        attentions = [module for module in self.modules() if isinstance(module, WindowAttention)]
        tables = torch.cat([attention.relative_position_bias_table for attention in attentions], dim=1)
        index = attentions[0].relative_position_index  # [N, N], the same in all
        biases = F.embedding(index, tables).permute(2, 0, 1).contiguous()
        return list(biases.split([attention.heads for attention in attentions]))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """[B, 3, height, width] -> features of strides 16 and 32, [B, 384, ., .] and [B, 768, ., .]."""
        x = run(self.patch_embed, self.checkpointing, images)
        biases = iter(self.position_biases())
        scales = iter(self.stochastic_depth(images.shape[0]))
        features = []
        for number, stage in enumerate(self.layers):
            output, x = stage(x, biases, scales, self.checkpointing)
            if number in self.feature_stages:
                features.append(self.get_submodule(f"norm{number}")(output).permute(0, 3, 1, 2).contiguous())
        return tuple(features)
