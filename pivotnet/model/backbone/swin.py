"""Swin-T (Liu et al., 2021, https://arxiv.org/abs/2103.14030): attention within windows of 7 x 7 tokens that move by
half a window in every other block. Letters in shapes: B images, H x W tokens, C channels, h heads, d = C/h channels a
head (32), N = 49 tokens a window, L windows an image."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pivotnet.model.layers import StochasticDepth, add_branch, run
from pivotnet.model.ops.add_layer_norm import add_layer_norm

WINDOW = 7  # tokens along a side of a window
SHIFT = WINDOW // 2  # tokens by which every other block moves its windows
PATCH = 4  # pixels along a side of a token of the first stage
CHANNELS = 96
DEPTHS = (2, 2, 6, 2)
HEADS = (3, 6, 12, 24)
MLP_RATIO = 4
MASKED = -100.0  # added to the scores of tokens that only the cyclic shift made neighbours
FEATURE_STAGES = (2, 3)  # whose outputs have strides 16 and 32

Rows = tuple[Tensor, bool]  # a row to take for each row of the result, int32, and whether some of them are padding


@functools.lru_cache(maxsize=32)
def window_rows(images: int, height: int, width: int, heads: int, shift: int, device: torch.device) -> list[Rows]:
    """Rows of tokens in windows, [B L N, C], for those of the maps, [B H W, C], and the way back; then both for parts
    of d channels: [B L h N, d] for [B H W h, d], and the way back. The maps are padded with zeros at the bottom and at
    the right up to whole windows, shifted cyclically by ``shift`` towards the top left, and cut into windows."""
    with torch.inference_mode(False):  # made maybe in evaluation, and then used in training too
        rows = torch.arange(images * height * width).view(images, height, width)
        padded = F.pad(rows, (0, -width % WINDOW, 0, -height % WINDOW), value=-1).roll((-shift, -shift), (1, 2))
        padded = padded.unflatten(2, (-1, WINDOW)).unflatten(1, (-1, WINDOW)).transpose(2, 3).flatten(1, 2)
        to_windows = padded.reshape(-1, WINDOW**2)  # [B L, N]
        of_heads = to_windows[:, None] * heads + torch.arange(heads)[:, None]  # [B L, h, N]
        of_heads = of_heads.where(to_windows[:, None] >= 0, -1)
        found: list[Rows] = []
        for forth in (to_windows.flatten(), of_heads.flatten()):
            places = (forth >= 0).nonzero().squeeze(1)
            back = torch.empty_like(places)
            back[forth[places]] = places
            padding = len(back) < len(forth)
            found += [(forth.where(forth >= 0, len(back)).int().to(device), padding), (back.int().to(device), False)]
        return found


def take(x: Tensor, rows: Rows, back: Rows) -> Tensor:
    """Rows of ``x`` [R, C], zeros for padding: one for each of ``rows``. ``back`` takes ``x`` from the result again."""
    return _Take.apply(x, rows, back)


class _Take(torch.autograd.Function):
    """Each row is taken once, so that the gradient is taken by the way back, and nothing is added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Rows, back: Rows) -> Tensor:
        ctx.ways = back, rows
        return _take(x, rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _take(gradient, ctx.ways[0]), None, None


def _take(x: Tensor, rows: Rows) -> Tensor:
    indices, padding = rows
    return (torch.cat([x, _zero_row(x.shape[1], x.dtype, x.device)]) if padding else x).index_select(0, indices)


@functools.lru_cache(maxsize=32)
def _zero_row(channels: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # as above
        return torch.zeros(1, channels, dtype=dtype, device=device)


def relative_position_index() -> Tensor:
    """Row of the bias table for each pair of tokens of a window: int64 [N, N]."""
    axis = torch.arange(WINDOW)
    distance = axis[:, None] - axis + WINDOW - 1
    rows, columns = distance.view(WINDOW, 1, WINDOW, 1), distance.view(1, WINDOW, 1, WINDOW)
    return (rows * (2 * WINDOW - 1) + columns).reshape(WINDOW**2, WINDOW**2)


@functools.lru_cache(maxsize=32)
def shift_mask(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What shifted windows of a map of ``height`` x ``width`` tokens, padded, add to the scores: [L, 1, N, N].
    The cyclic shift joins strips of opposite edges in one window; their tokens must not see each other."""
    with torch.inference_mode(False):  # as above
        rows, columns = (torch.arange(-(length + -length % WINDOW), 0) for length in (height, width))  # from the end
        rows = (rows >= -WINDOW).long() + (rows >= -SHIFT)
        columns = (columns >= -WINDOW).long() + (columns >= -SHIFT)
        region = (rows[:, None] * 3 + columns).unflatten(1, (-1, WINDOW)).unflatten(0, (-1, WINDOW))
        region = region.transpose(1, 2).reshape(-1, WINDOW**2)
        separate = region[:, None, :] != region[:, :, None]
        return torch.zeros(separate.shape, dtype=dtype).masked_fill(separate, MASKED).unsqueeze(1).to(device)


class _Attend(torch.autograd.Function):
    """softmax(scale * q k^T + bias + mask) v, [B, L, h, N, d], of qkv [3, B, L, h, N, d], a bias [h, N, N] and maybe a
    mask [L, 1, N, N], as in Swin, equation 4. The gradients of q, k and v are written where qkv's is."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        query, key, value = qkv.flatten(1, 3)  # [B L h, N, d]
        shape = (*qkv.shape[1:4], WINDOW**2, WINDOW**2)
        bias = bias if mask is None else bias + mask
        scores = torch.add(bias, (query @ key.transpose(1, 2)).view(shape), alpha=scale)
        with torch.autocast(device_type=qkv.device.type, enabled=False):  # which would compute it in float32
            probabilities = scores.softmax(-1).flatten(0, 2)
        ctx.save_for_backward(qkv, probabilities)
        ctx.shape, ctx.scale = shape, scale
        return (probabilities @ value).view(qkv.shape[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        qkv, probabilities = ctx.saved_tensors
        query, key, value = qkv.flatten(1, 3)
        gradient = gradient.reshape(value.shape)
        of_qkv = torch.empty_like(qkv)
        of_query, of_key, of_value = of_qkv.flatten(1, 3)
        torch.bmm(probabilities.transpose(1, 2), gradient, out=of_value)
        of_probabilities = gradient @ value.transpose(1, 2)
        of_scores = torch.ops.aten._softmax_backward_data(of_probabilities, probabilities, -1, probabilities.dtype)
        torch.baddbmm(query, of_scores, key, beta=0, alpha=ctx.scale, out=of_query)
        torch.baddbmm(key, of_scores.transpose(1, 2), query, beta=0, alpha=ctx.scale, out=of_key)
        return of_qkv, of_scores.view(ctx.shape).sum((0, 1)), None, None


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows, with a learned bias for each relative position."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        # Not used here; upstream's checkpoints have it.
        self.register_buffer("relative_position_index", relative_position_index())
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, bias: Tensor, shift: int) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]; ``bias``: added to the scores, [h, N, N]; ``shift``: of the windows."""
        batch, height, width, channels = x.shape
        forth, back, forth_heads, back_heads = window_rows(batch, height, width, self.heads, shift, x.device)
        # Whole tokens, and only then heads, by a strided copy: gathers of many short rows may be slow (not measured).
        x = take(x.reshape(-1, channels), forth, back)
        qkv = self.qkv(x).view(batch, -1, WINDOW**2, 3, self.heads, channels // self.heads)
        mask = shift_mask(height, width, qkv.dtype, x.device) if shift else None
        qkv = qkv.permute(3, 0, 1, 4, 2, 5).contiguous()  # [3, B, L, h, N, d]
        x = _Attend.apply(qkv, bias, mask, self.scale).view(-1, channels // self.heads)
        # tokens are projected one by one, so that the padding can go before
        x = take(x, back_heads, forth_heads).view(-1, channels)
        return self.proj(x).view(batch, height, width, channels)


class _GeluLinear(torch.autograd.Function):
    """A linear map of GELU(x), which the backward pass computes again: it is the largest tensor of a block."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        flat = gradient.flatten(0, -2)
        of_weight = flat.t() @ F.gelu(x).flatten(0, -2)
        return torch.ops.aten.gelu_backward(gradient @ weight, x), of_weight, flat.sum(0)


class SwinBlock(nn.Module):
    """Attention and MLP, each with a norm before it and a shortcut around it. Where all else is recomputed, the
    backward pass of the MLP needs the most memory: with ``halves``, half of the images at a time go through it."""

    def __init__(self, channels: int, heads: int, shift: int, halves: bool) -> None:
        super().__init__()
        self.shift, self.halves = shift, halves
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        wide = MLP_RATIO * channels
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(channels, wide), "fc2": nn.Linear(wide, channels)})

    def forward(
        self, x: Tensor, branch: Tensor | None, scale: Tensor | None, bias: Tensor, attention_scale: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """x + scale * branch -> x and the branch of the MLP, which is not yet added. x and ``branch``, which is that of
        the block before, if there is one: [B, H, W, C]; ``scale`` for it, and ``attention_scale``: of stochastic depth;
        ``bias`` of relative positions: [h, N, N]."""
        normed, x = (self.norm1(x), x) if branch is None else add_layer_norm(self.norm1, x, branch, scale)
        normed, x = add_layer_norm(self.norm2, x, self.attn(normed, bias, self.shift), attention_scale)
        fc1, fc2 = self.mlp["fc1"], self.mlp["fc2"]
        hidden = [fc1(part) for part in (normed.chunk(2) if self.halves else [normed])]
        # cast here, for autocast: recomputation sees the weights that mixed precision has replaced in the first pass
        weights = [weight.to(hidden[0].dtype) for weight in (fc2.weight, fc2.bias)]
        branches = [_GeluLinear.apply(part, *weights) for part in hidden]
        return x, torch.cat(branches) if self.halves else branches[0]


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
        x = self.norm(x.permute(0, 1, 3, 4, 2, 5).flatten(3))  # column by column of the 2 x 2
        merged = x.flatten(0, 2).mm(self.reduction.weight.t())  # torch_npu's @ gives the weight a transposed gradient
        # A card's or an NPU's norm gives float32 under autocast, and the sums of branches stay so.
        return merged.to(x.dtype).unflatten(0, x.shape[:3])


class SwinStage(nn.Module):
    """The blocks of one resolution, and the merging to the next."""

    def __init__(self, channels: int, depth: int, heads: int, merge: bool, checkpointing: bool) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        halves = checkpointing and channels == CHANNELS  # tokens are most in the first stage
        self.blocks = nn.ModuleList(SwinBlock(channels, heads, SHIFT * (i % 2), halves) for i in range(depth))
        self.downsample = PatchMerging(channels) if merge else None

    def forward(self, x: Tensor, biases: Iterator, scales: Iterator, norm: nn.LayerNorm | None) -> tuple[Tensor, ...]:
        """[B, H, W, C] -> the same shape after ``norm``, if there is one, and the merging of what was before it. Takes
        a bias and two scales (Tensor or None) a block from the iterators."""
        branch, scale = None, None
        for block in self.blocks:
            if self.checkpointing and branch is not None:  # one tensor is kept, not two
                x, branch = add_branch(x, branch, scale), None
            x, branch = run(block, self.checkpointing, x, branch, scale, next(biases), next(scales))
            scale = next(scales)
        assert branch is not None
        if norm is None:
            output = x = add_branch(x, branch, scale)
        else:
            output, x = add_layer_norm(norm, x, branch, scale)
        return output, x if self.downsample is None else run(self.downsample, self.checkpointing, x)


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
    """Swin-T without its classifier. ``drop_path``: largest rate of stochastic depth; it rises linearly from 0 over the
    blocks. ``checkpointing``: recompute blocks, patches and mergings in the backward pass instead of keeping their
    activations. ``feature_stages``: stages whose outputs are returned; stage s has stride 4 * 2^s."""

    positions: Tensor

    def __init__(self, drop_path: float, checkpointing: bool, feature_stages: tuple[int, ...] = FEATURE_STAGES) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.feature_stages = feature_stages
        self.patch_embed = PatchEmbed(CHANNELS)
        self.layers = nn.ModuleList(
            SwinStage(CHANNELS << stage, depth, heads, stage + 1 < len(DEPTHS), checkpointing)
            for stage, (depth, heads) in enumerate(zip(DEPTHS, HEADS))
        )
        for stage in feature_stages:
            self.add_module(f"norm{stage}", nn.LayerNorm(CHANNELS << stage))
        rates = torch.linspace(0, drop_path, sum(DEPTHS)).tolist()
        self.stochastic_depth = StochasticDepth([rate for rate in rates for _ in ("attention", "mlp")])
        positions = F.one_hot(relative_position_index().flatten(), (2 * WINDOW - 1) ** 2).t().float().contiguous()
        self.register_buffer("positions", positions, persistent=False)  # [relative positions, N N]

    def position_biases(self) -> list[Tensor]:
        """Bias of each block's scores, [h, N, N] each; looked up for all blocks at once, as a product: its gradient is
        one, too."""
        attentions = [module for module in self.modules() if isinstance(module, WindowAttention)]
        tables = torch.cat([attention.relative_position_bias_table for attention in attentions], dim=1)
        biases = (tables.t() @ self.positions).view(-1, WINDOW**2, WINDOW**2)
        return list(biases.split([attention.heads for attention in attentions]))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """[B, 3, height, width] -> features of strides 16 and 32, [B, 384, ., .] and [B, 768, ., .]."""
        x = run(self.patch_embed, self.checkpointing, images)
        biases = iter(self.position_biases())
        scales = iter(self.stochastic_depth(images.shape[0]))
        features = []
        for number, stage in enumerate(self.layers):
            norm = getattr(self, f"norm{number}") if number in self.feature_stages else None
            output, x = stage(x, biases, scales, norm)
            if norm is not None:
                features.append(output.permute(0, 3, 1, 2).contiguous())
        return tuple(features)
