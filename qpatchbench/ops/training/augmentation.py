"""Training augmentation on batches of uint8 images, vectorised."""

from __future__ import annotations

import torch


def random_crop(images: torch.Tensor, padding: int, generator: torch.Generator) -> torch.Tensor:
    """Shift each image by up to `padding` pixels; what comes in from outside is black.

    Args:
        images: (B, C, H, W), any dtype.
        padding: pixels added on every side before a window of the old size is cut out.
        generator: CPU generator.
    """
    batch, channels, height, width = images.shape
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    shift = torch.randint(0, 2 * padding + 1, (2, batch), generator=generator).to(images.device)
    device = images.device
    return padded[
        torch.arange(batch, device=device).view(-1, 1, 1, 1),
        torch.arange(channels, device=device).view(1, -1, 1, 1),
        (shift[0].view(-1, 1) + torch.arange(height, device=device)).view(batch, 1, height, 1),
        (shift[1].view(-1, 1) + torch.arange(width, device=device)).view(batch, 1, 1, width),
    ]


def random_flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror each image left to right with probability one half."""
    flipped = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
    return torch.where(flipped.view(-1, 1, 1, 1), images.flip(-1), images)
