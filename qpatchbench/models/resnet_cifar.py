"""Residual networks for small images: He, Zhang, Ren, Sun 2016, arXiv 1512.03385, section 4.2.

A 3x3 stem of 16 channels, three stages of n blocks with 16, 32, 64 channels, global average pooling and
one linear layer: 6n + 2 weighted layers. Shortcuts that change shape are the parameter-free option A.
The paper leaves open where option A's zero channels go; half lie before and half behind the copied
ones, and the names are layer1..layer3 and linear, so that widely shared checkpoints load by name.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

CHANNELS = (16, 32, 64)  # of the three stages


class Shortcut(nn.Module):
    """Option A: every `stride`-th pixel, and zeros for the channels that are added."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (out_channels - in_channels) // 2
        self.behind = out_channels - in_channels - self.before

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, in, H, W) -> (B, out, ceil(H / stride), ceil(W / stride))."""
        kept = features[:, :, :: self.stride, :: self.stride]
        return functional.pad(kept, (0, 0, 0, 0, self.before, self.behind))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each with BatchNorm, and the shortcut around them."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        same_shape = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same_shape else Shortcut(in_channels, out_channels, stride)
        self.relu2 = nn.ReLU()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, in, H, W) -> (B, out, H / stride, W / stride)."""
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(features)))))
        activated: torch.Tensor = self.relu2(residual + self.shortcut(features))
        return activated


def _stage(blocks: int, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    rest = [BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(in_channels, out_channels, stride), *rest)


class CifarResNet(nn.Module):
    """ResNet of `depth` = 6n + 2 layers: normalised images (B, 3, H, W), H, W >= 8 -> logits (B, K).

    `width` multiplies all channels; 1 is the paper.
    """

    # The stem and the first convolution of every stage but the last, for defenses that compare early features.
    early_layers = ("conv1", "layer1.0.conv1", "layer2.0.conv1")

    def __init__(self, depth: int, num_classes: int, width: int = 1) -> None:
        super().__init__()
        blocks, remainder = divmod(depth - 2, 6)
        if remainder or blocks < 1:
            raise ValueError(f"expected a depth of 6n + 2 such as 20, 32, 44 or 56, found {depth}")
        first, second, third = (width * channels for channels in CHANNELS)
        self.conv1 = nn.Conv2d(3, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.relu = nn.ReLU()
        self.layer1 = _stage(blocks, first, first, stride=1)
        self.layer2 = _stage(blocks, first, second, stride=2)
        self.layer3 = _stage(blocks, second, third, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(third, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)  # He et al. 2015, arXiv 1502.01852, equation 10
        nn.init.zeros_(self.linear.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images (B, 3, H, W) -> logits (B, K)."""
        features = self.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: torch.Tensor = self.linear(self.flatten(self.pool(features)))
        return logits
