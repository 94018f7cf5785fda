"""Swin's windows against attention written out token by token."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from pivotnet.model.backbone.swin import (
    MASKED,
    SHIFT,
    WINDOW,
    PatchMerging,
    SwinBlock,
    SwinTransformer,
    pad_and_shift,
    relative_position_index,
    shift_mask,
    unshift_and_crop,
)


@pytest.mark.parametrize("shift", [0, SHIFT])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 6, 7, 8, 14, 20])
def test_pad_and_shift(length, shift):
    x = torch.arange(1.0, length + 1).view(1, 1, length, 1).requires_grad_()
    moved = pad_and_shift(x, 2, shift)
    padded = F.pad(x, (0, 0, 0, -length % WINDOW))
    assert_close(moved, padded.roll(-shift, 2), rtol=0, atol=0)
    restored = unshift_and_crop(moved, 2, shift, length)
    assert_close(restored, x, rtol=0, atol=0)
    weights = torch.arange(2.0, length + 2).view(1, 1, length, 1)
    (gradient,) = torch.autograd.grad((restored * weights).sum(), x)
    assert_close(gradient, weights, rtol=0, atol=0)


def test_relative_position_index():
    index = relative_position_index()
    assert index.shape == (49, 49) and index.min() == 0 and index.max() == 168
    rows, columns = torch.meshgrid(torch.arange(7), torch.arange(7), indexing="ij")
    offsets = {}
    for one in range(49):
        for other in range(49):
            offset = (
                (rows.flatten()[one] - rows.flatten()[other]).item(),
                (columns.flatten()[one] - columns.flatten()[other]).item(),
            )
            assert offsets.setdefault(offset, index[one, other].item()) == index[one, other]
    assert len(set(offsets.values())) == len(offsets) == 169


def attention_by_token(block: SwinBlock, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The block's attention on one padded image [H, W, C], each token by itself and without moving any.

    A token's window is that of the grid shifted by ``block.shift``. What lies before the first whole shifted window and
    after the last one make a window together, in which tokens see only those of their own part.
    """
    height, width, channels = x.shape
    heads = block.attn.heads
    query, key, value = block.attn.qkv(x).view(height, width, 3, heads, -1).unbind(2)
    result = torch.zeros_like(query)

    def place(position: int, length: int) -> tuple[int, int, int]:
        """Window, part of it, and place in the window."""
        moved = (position - block.shift) % length
        return moved // WINDOW, int(block.shift > 0 and position < block.shift), moved % WINDOW

    cells = [(row, column) for row in range(height) for column in range(width)]
    for row, column in cells:
        row_window, row_part, row_place = place(row, height)
        column_window, column_part, column_place = place(column, width)
        scores, values = [], []
        for other_row, other_column in cells:
            other = place(other_row, height), place(other_column, width)
            if (other[0][0], other[1][0]) != (row_window, column_window):
                continue
            index = (row_place - other[0][2] + WINDOW - 1) * (2 * WINDOW - 1) + column_place - other[1][2] + WINDOW - 1
            score = (query[row, column] * key[other_row, other_column]).sum(-1) / query.shape[-1] ** 0.5 + bias[index]
            if (other[0][1], other[1][1]) != (row_part, column_part):
                score = score + MASKED
            scores.append(score)
            values.append(value[other_row, other_column])
        weights = torch.stack(scores).softmax(0)  # [tokens, heads]
        result[row, column] = (weights.unsqueeze(-1) * torch.stack(values)).sum(0)
    return block.attn.proj(result.flatten(2))


@pytest.mark.parametrize("shift", [0, SHIFT])
def test_window_attention_and_the_gradient_of_its_bias(shift):
    torch.manual_seed(0)
    height, width, heads = 9, 7, 2
    block = SwinBlock(8, heads, shift).double()
    table = block.attn.relative_position_bias_table
    with torch.no_grad():
        table.normal_()
    x = torch.randn(2, height, width, 8, dtype=torch.float64)
    bias = F.embedding(block.attn.relative_position_index, table).permute(2, 0, 1).unsqueeze(0)
    if shift:
        bias = bias + shift_mask(14, 7, x.device)
    output = block.attn(x, bias, shift)
    want = torch.stack([attention_by_token(block, F.pad(image, (0, 0, 0, 0, 0, 5)), table) for image in x])[:, :height]
    assert_close(output, want)
    weights = torch.randn_like(output)
    leaves = (table, block.attn.qkv.weight, block.attn.qkv.bias)
    gradients = torch.autograd.grad((output * weights).sum(), leaves)
    want_gradients = torch.autograd.grad((want * weights).sum(), leaves)
    for gradient, want_gradient in zip(gradients, want_gradients):
        assert_close(gradient, want_gradient)
    assert (gradients[0] != 0).any(1).sum() == 169  # every offset occurs


def test_biases_of_all_blocks_at_once():
    net = SwinTransformer(0.0, checkpointing=False)
    biases = net.position_biases()
    attentions = [block.attn for stage in net.layers for block in stage.blocks]
    assert len(biases) == len(attentions) == 12
    for bias, attention in zip(biases, attentions):
        want = attention.relative_position_bias_table[attention.relative_position_index].permute(2, 0, 1)
        assert_close(bias, want, rtol=0, atol=0)


def test_shift_mask_is_made_once_and_survives_inference_mode():
    shift_mask.cache_clear()
    with torch.inference_mode():
        first = shift_mask(14, 7, torch.device("cpu"))
    assert shift_mask(14, 7, torch.device("cpu")) is first
    assert not first.is_inference()


@pytest.mark.parametrize("height, width", [(4, 6), (5, 7), (1, 1)])
def test_patch_merging(height, width):
    torch.manual_seed(0)
    merge = PatchMerging(3)
    x = torch.randn(2, height, width, 3)
    padded = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
    parts = [padded[:, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
    assert_close(merge(x), merge.reduction(merge.norm(torch.cat(parts, -1))))
