"""AlexNet for small images: Krizhevsky, Sutskever, Hinton 2012.

In the single-column widths of Krizhevsky 2014, arXiv 1404.5997 (64, 192, 384, 256, 256 channels).

The customary CIFAR variant: 11x11 stride-4 stem with padding 5, 2x2 poolings, and one linear layer on 256
features in place of three. BatchNorm follows every convolution and takes the place of local response
normalisation, which no quantizer has an integer form for.
"""

from __future__ import annotations

import torch
from torch import nn


def _convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU()]


class CifarAlexNet(nn.Module):
    """Five convolutions and a linear layer: normalised images (B, 3, H, W), H, W >= 8 -> logits (B, K)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(3, 64, 11, stride=4),
            nn.MaxPool2d(2, ceil_mode=True),
            *_convolution(64, 192, 5),
            nn.MaxPool2d(2, ceil_mode=True),
            *_convolution(192, 384, 3),
            *_convolution(384, 256, 3),
            *_convolution(256, 256, 3),
            nn.MaxPool2d(2, ceil_mode=True),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(256, num_classes)
        nn.init.kaiming_normal_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images (B, 3, H, W) -> logits (B, K)."""
        logits: torch.Tensor = self.classifier(self.flatten(self.pool(self.features(images))))
        return logits
