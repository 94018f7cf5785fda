"""ResNet-50 (He et al., 2016, https://arxiv.org/abs/1512.03385), with the stride in the 3 x 3 convolutions. Its batch
norms stay in evaluation mode: their statistics are fixed, only their weights and biases are trained."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pivotnet.model.layers import run

DEPTHS = (3, 4, 6, 3)
STEM_CHANNELS = 64
EXPANSION = 4  # output channels of a block over the channels inside


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions around which a shortcut goes."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * channels
        self.conv1 = nn.Conv2d(inputs, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, 4 channels, H/stride, W/stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return F.relu(self.bn3(self.conv3(x)).add_(shortcut), inplace=True)


class ResNet(nn.Module):
    """ResNet-50 without its classifier. ``checkpointing``: recompute each block in the backward pass instead of keeping
    its activations. ``outputs``: how many of the last features (strides 4, 8, 16, 32) are returned."""

    def __init__(self, checkpointing: bool, outputs: int = 2) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.outputs = outputs
        self.conv1 = nn.Conv2d(3, STEM_CHANNELS, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        inputs = STEM_CHANNELS
        for number, depth in enumerate(DEPTHS):
            channels = STEM_CHANNELS << number
            blocks = []
            for index in range(depth):
                blocks.append(Bottleneck(inputs, channels, stride=2 if number and not index else 1))
                inputs = EXPANSION * channels
            self.add_module(f"layer{number + 1}", nn.Sequential(*blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Bottleneck):  # each residual branch starts at zero (Goyal et al., 2017)
                nn.init.zeros_(module.bn3.weight)
        self.train()

    def train(self, mode: bool = True) -> ResNet:
        """As every module's, but batch norms stay in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """[B, 3, height, width] -> features of strides 16 and 32, [B, 1024, ., .] and [B, 2048, ., .]."""
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        features = []
        for number in range(len(DEPTHS)):
            for block in self.get_submodule(f"layer{number + 1}").children():
                x = run(block, self.checkpointing, x)
            features.append(x)
        return tuple(features[-self.outputs :])
