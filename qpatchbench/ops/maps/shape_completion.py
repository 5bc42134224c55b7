"""Completion of a patch mask to squares (Liu et al. 2022, CVPR, arXiv 2112.04532); numbers are those of their code."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

START, DECAY, TRIALS = 0.9, 0.7, 15


def completed_squares(masks: torch.Tensor, sides: Sequence[int]) -> torch.Tensor:
    """What squares close to a mask cover.

    A square of s x s pixels counts where the Hamming distance between it and the mask is less than gamma s^2; gamma
    starts at 1 - 0.9 and grows as 1 - 0.9 * 0.7^k, image by image, until some square of some side does. A mask that
    lies within that distance of a square patch is completed to one that covers the whole patch.

    Args:
        masks: (B, H, W) bool, what a segmenter took for a patch.
        sides: of the squares, pixels; those larger than the image are left out.

    Returns:
        (B, H, W) bool; nothing where there is no mask, or where no square is close enough.
    """
    pixels = masks.float()[:, None]
    total = pixels.sum(dim=(1, 2, 3), keepdim=True)
    fitting = [side for side in sides if side <= min(masks.shape[-2:])]
    distances = [(side**2 - 2 * _counted(pixels, side) + total) / side**2 for side in fitting]
    found = torch.zeros_like(masks)
    for trial in range(TRIALS):
        closest = 1 - START * DECAY**trial
        covered = torch.zeros_like(masks)
        for side, distance in zip(fitting, distances, strict=True):
            covered |= _covered((distance < closest) & (total > 0), side)[:, 0]
        found |= covered & ~found.flatten(1).any(dim=1)[:, None, None]
    return found


def _counted(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """Pixels of the mask within the square that begins there, (B, 1, H - side + 1, W - side + 1)."""
    return (functional.avg_pool2d(pixels, side, stride=1) * side**2).round()


def _covered(begins: torch.Tensor, side: int) -> torch.Tensor:
    """Where a square that begins at one of the places has a pixel, (B, 1, H, W)."""
    return functional.max_pool2d(functional.pad(begins.float(), (side - 1,) * 4), side, stride=1) > 0
