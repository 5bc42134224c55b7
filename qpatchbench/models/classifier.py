"""The wrapper that keeps preprocessing inside the network: pixels in [0, 1] go in, logits come out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


class ImageClassifier(nn.Module):
    """Resize if needed, normalise, classify; differentiable twice with respect to the images.

    The state dict holds the backbone only ("backbone." names): mean and std are configuration, not weights.

    Args:
        backbone: normalised images (B, 3, image_size, image_size) -> logits (B, K).
        mean, std: per channel, for pixels in [0, 1]; std > 0.
        image_size: side that the backbone works at, pixels.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, backbone: nn.Module, mean: Sequence[float], std: Sequence[float], image_size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.image_size = image_size
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, K)."""
        if images.shape[-2:] != (self.image_size, self.image_size):
            # Bilinear stays within the range of its inputs; bicubic would overshoot [0, 1].
            images = functional.interpolate(
                images, size=(self.image_size, self.image_size), mode="bilinear", align_corners=False
            )
        logits: torch.Tensor = self.backbone((images - self.mean) / self.std)
        return logits
