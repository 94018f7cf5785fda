"""EfficientNet-B0 (Tan and Le, 2019, https://arxiv.org/abs/1905.11946)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pivotnet.model.layers import StochasticDepth, add_branch, run

STEM_CHANNELS = 32
# (blocks, kernel size, stride of the first block, expansion, output channels) of each stage
STAGES = (
    *((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80)),
    *((3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)),
)
SQUEEZE = 4  # input channels of a block over the channels of its squeeze and excitation
MOMENTUM = 0.01


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with EfficientNet's epsilon and momentum."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=MOMENTUM)


class SamePadConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding for even sizes: a stride of 2 pads one pixel less before than after.
    The padding is fixed and does not depend on the size of the input."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
        even = before if before == after else 0
        super().__init__(inputs, outputs, kernel, stride, even, groups=groups, bias=False)
        self.uneven = None if before == after else (before, after, before, after)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H/stride, W/stride]."""
        if self.uneven is not None:
            x = F.pad(x, self.uneven)
        return super().forward(x)


class MBConvBlock(nn.Module):
    """Inverted bottleneck: 1 x 1 expansion, depthwise convolution, squeeze and excitation, 1 x 1 projection."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.has_shortcut = stride == 1 and inputs == outputs
        hidden = expansion * inputs
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = nn.Conv2d(inputs, hidden, 1, bias=False)
            self._bn0 = batch_norm(hidden)
        self._depthwise_conv = SamePadConv2d(hidden, hidden, kernel, stride, groups=hidden)
        self._bn1 = batch_norm(hidden)
        self._se_reduce = nn.Conv2d(hidden, inputs // SQUEEZE, 1)
        self._se_expand = nn.Conv2d(inputs // SQUEEZE, hidden, 1)
        self._project_conv = nn.Conv2d(hidden, outputs, 1, bias=False)
        self._bn2 = batch_norm(outputs)

    def forward(self, x: Tensor, scale: Tensor | None) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H/stride, W/stride]; ``scale``: of stochastic depth."""
        shortcut = x
        if self.expands:
            x = F.silu(self._bn0(self._expand_conv(x)))
        x = F.silu(self._bn1(self._depthwise_conv(x)))
        gate = self._se_expand(F.silu(self._se_reduce(F.adaptive_avg_pool2d(x, 1))))
        x = self._bn2(self._project_conv(torch.sigmoid(gate) * x))
        return add_branch(shortcut, x, scale) if self.has_shortcut else x


class EfficientNet(nn.Module):
    """EfficientNet-B0 without its head and classifier. ``drop_connect``: rate of stochastic depth that the block after
    the last would have; it rises linearly from 0. ``checkpointing``: recompute each block in the backward pass instead
    of keeping its activations."""

    def __init__(self, drop_connect: float, checkpointing: bool) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self._conv_stem = SamePadConv2d(3, STEM_CHANNELS, 3, stride=2)
        self._bn0 = batch_norm(STEM_CHANNELS)
        self._blocks = nn.ModuleList()
        last = []  # last block of each stride
        inputs = STEM_CHANNELS
        for depth, kernel, stride, expansion, outputs in STAGES:
            if stride > 1:
                last.append(len(self._blocks) - 1)
            for index in range(depth):
                self._blocks.append(MBConvBlock(inputs, outputs, kernel, 1 if index else stride, expansion))
                inputs = outputs
        self.feature_blocks = (last[-1], len(self._blocks) - 1)  # of strides 16 and 32
        self.shortcuts = [number for number, block in enumerate(self._blocks) if block.has_shortcut]
        self.stochastic_depth = StochasticDepth([drop_connect * i / len(self._blocks) for i in self.shortcuts])

    def _follow_recomputation(self) -> bool:
        """Update running statistics as upstream does, whose checkpointed blocks see each batch twice. Two updates with
        momentum m and the same batch are one with 2m - m^2. Returns whether to checkpoint the blocks."""
        learning = self.training and torch.is_grad_enabled()
        once = learning and not self.checkpointing
        for norm in self._blocks.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = 2 * MOMENTUM - MOMENTUM**2 if once else MOMENTUM
                if once:
                    norm.get_buffer("num_batches_tracked").add_(1)
        return learning and self.checkpointing

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """[B, 3, height, width] -> features of strides 16 and 32, [B, 112, ., .] and [B, 320, ., .]."""
        checkpointed = self._follow_recomputation()
        x = F.silu(self._bn0(self._conv_stem(images)))
        scales = dict(zip(self.shortcuts, self.stochastic_depth(images.shape[0])))
        features = []
        for number, block in enumerate(self._blocks):
            x = run(block, checkpointed, x, scales.get(number))
            if number in self.feature_blocks:
                features.append(x)
        return tuple(features)
