"""VGG with BatchNorm for small images: Simonyan, Zisserman 2015, arXiv 1409.1556, table 1, columns D and E.

The customary CIFAR variant: BatchNorm after every convolution, and one linear layer on 512 features in
place of three. At 32 pixels the last features are 1x1; other sizes are averaged to that.
"""

from __future__ import annotations

import torch
from torch import nn

CHANNELS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # per stage, table 1, columns D and E


class CifarVgg(nn.Module):
    """VGG of `depth` 16 or 19: normalised images (B, 3, H, W), H, W >= 16 -> logits (B, K)."""

    def __init__(self, depth: int, num_classes: int) -> None:
        super().__init__()
        if depth not in CONVOLUTIONS:
            raise ValueError(f"expected a depth of {' or '.join(map(str, CONVOLUTIONS))}, found {depth}")
        layers: list[nn.Module] = []
        in_channels = 3
        for out_channels, convolutions in zip(CHANNELS, CONVOLUTIONS[depth], strict=True):
            for _ in range(convolutions):
                convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
                nn.init.kaiming_normal_(convolution.weight)
                layers += [convolution, nn.BatchNorm2d(out_channels), nn.ReLU()]
                in_channels = out_channels
            # Rounding up lets the fifth pooling pass the single pixel that a 16-pixel image has left.
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(in_channels, num_classes)
        nn.init.kaiming_normal_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images (B, 3, H, W) -> logits (B, K)."""
        logits: torch.Tensor = self.classifier(self.flatten(self.pool(self.features(images))))
        return logits
