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


@functools.lru_cache(maxsize=32)
def window_rows(images: int, height: int, width: int, heads: int, shift: int, device: torch.device) -> list[Tensor]:
    """Which parts of d channels are taken into windows and back, int32 indices of rows: of queries, keys and values,
    [3, B, L, h, N, d], from tokens, [B H W + 1, 3, h, d], and back without the last one; then the same for one of the
    three. Maps are padded at the bottom and at the right up to whole windows, with the last token; shifted cyclically
    by ``shift`` towards the top left; and cut into windows."""
    with torch.inference_mode(False):  # made maybe in evaluation, and then used in training too
        count = images * height * width
        tokens = torch.arange(count).view(images, height, width)
        padded = F.pad(tokens, (0, -width % WINDOW, 0, -height % WINDOW), value=count).roll((-shift, -shift), (1, 2))
        windows = padded.unflatten(2, (-1, WINDOW)).unflatten(1, (-1, WINDOW)).transpose(2, 3).flatten(3)
        found = []
        for parts in (3, 1):
            each = torch.arange(parts * heads).view(parts, 1, heads, 1)
            forth = (windows.reshape(-1, 1, WINDOW**2) * parts * heads + each).flatten()  # [parts, B L, h, N]
            back = torch.empty((count + 1) * parts * heads, dtype=torch.int32)
            back[forth] = torch.arange(len(forth), dtype=torch.int32)
            found += [forth.int().to(device), back[: count * parts * heads].to(device)]
        return found


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
    """Attention within windows, from tokens to tokens [B H W, C]: projections, softmax(q k^T / sqrt(d) + bias + mask) v
    as in Swin, equation 4, and a projection. ``rows`` are those of ``window_rows``, ``shape`` is [3, B, L, h, N, d],
    ``bias`` [h, N, N], ``mask`` None or [L, 1, N, N]. One function, so that parts of tokens go into windows, and back,
    in one copy: padding is a token of zeros, whose projection is the bias, in one row after the tokens."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        qkv_weight: Tensor,
        qkv_bias: Tensor,
        weight: Tensor,
        weight_bias: Tensor,
        bias: Tensor,
        mask: Tensor | None,
        rows: list[Tensor],
        shape: tuple[int, ...],
    ) -> Tensor:
        projected = x.new_empty(len(x) + 1, len(qkv_bias))
        torch.addmm(qkv_bias, x, qkv_weight.t(), out=projected[:-1])
        projected[-1] = qkv_bias
        qkv = _take(projected, rows[0], shape[-1]).view(shape)
        del projected
        query, key, value = qkv.flatten(1, 3)  # [B L h, N, d]
        scores = (query @ key.transpose(1, 2)).view(*shape[1:5], shape[4])
        scores = torch.add(bias if mask is None else bias + mask, scores, alpha=shape[-1] ** -0.5)
        probabilities = scores.softmax(-1).flatten(0, 2)
        attended = _take(probabilities @ value, rows[3], shape[-1]).view(x.shape)
        ctx.save_for_backward(x, qkv_weight, weight, qkv, probabilities, attended)
        ctx.rows = rows
        return torch.addmm(weight_bias, attended, weight.t())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        # What is recomputed is freed where it is deleted: the peak of memory may lie here.
        x, qkv_weight, weight, qkv, probabilities, attended = ctx.saved_tensors
        of_weight, of_weight_bias = gradient.t() @ attended, gradient.sum(0)
        del attended
        query, key, value = qkv.flatten(1, 3)
        scale = qkv.shape[-1] ** -0.5
        of_attended = x.new_empty(len(x) + 1, x.shape[1])
        torch.mm(gradient, weight, out=of_attended[:-1])
        of_attended[-1].zero_()
        of_result = _take(of_attended, ctx.rows[2], qkv.shape[-1]).view(value.shape)
        of_probabilities = of_result @ value.transpose(1, 2)
        of_qkv = torch.empty_like(qkv)
        of_query, of_key, of_value = of_qkv.flatten(1, 3)
        torch.bmm(probabilities.transpose(1, 2), of_result, out=of_value)
        del of_attended, of_result
        of_scores = torch.ops.aten._softmax_backward_data(of_probabilities, probabilities, -1, probabilities.dtype)
        del of_probabilities, probabilities
        torch.baddbmm(query, of_scores, key, beta=0, alpha=scale, out=of_query)
        torch.baddbmm(key, of_scores.transpose(1, 2), query, beta=0, alpha=scale, out=of_key)
        of_bias = of_scores.view(*qkv.shape[1:5], -1).sum((0, 1))
        of_qkv_bias = of_qkv.sum((1, 2, 4)).flatten()
        rows, channels = ctx.rows[1], qkv.shape[-1]
        del of_scores, qkv, query, key, value
        of_projected = _take(of_qkv, rows, channels).view(len(x), -1)
        del of_qkv, of_query, of_key, of_value
        of_x, of_qkv_weight = of_projected @ qkv_weight, of_projected.t() @ x
        return of_x, of_qkv_weight, of_qkv_bias, of_weight, of_weight_bias, of_bias, None, None, None


def _take(x: Tensor, rows: Tensor, channels: int) -> Tensor:
    return x.view(-1, channels).index_select(0, rows)


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows, with a learned bias for each relative position."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        # Not used here; upstream's checkpoints have it.
        self.register_buffer("relative_position_index", relative_position_index())
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, bias: Tensor, shift: int) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]; ``bias``: added to the scores, [h, N, N]; ``shift``: of the windows."""
        batch, height, width, channels = x.shape
        dtype = bias.dtype  # autocast's, where it is on
        rows = window_rows(batch, height, width, self.heads, shift, x.device)
        mask = shift_mask(height, width, dtype, x.device) if shift else None
        windows = len(rows[2]) // (batch * self.heads * WINDOW**2)
        shape = (3, batch, windows, self.heads, WINDOW**2, channels // self.heads)
        weights = (parameter.to(dtype) for layer in (self.qkv, self.proj) for parameter in layer.parameters())
        with torch.autocast(x.device.type, enabled=False):  # which would compute softmax in float32
            x = _Attend.apply(x.reshape(-1, channels).to(dtype), *weights, bias, mask, rows, shape)
        return x.view(batch, height, width, channels)


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
