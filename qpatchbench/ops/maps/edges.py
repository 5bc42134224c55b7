"""Edges of maps: Sobel magnitude, and its strongest part, cut hard or softly.

Soft edges follow TriQDef (Guesmi, Ouni, Shafique 2026, ICLR, arXiv 2508.12132), section 3.2: sigmoid(k * (E - tau)),
tau a quantile of E. The sharpness k is absolute, so maps have to be of one scale: see `similarity.prepared`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

# Keeps square roots and quotients differentiable, twice, where a map is flat; far below any slope of a prepared map.
FLAT = 1e-12
SHARPNESS, QUANTILE = 100.0, 0.85


class Slopes(NamedTuple):
    """Sobel responses (B, H, W): along a row, and along a column (downwards)."""

    across: torch.Tensor
    down: torch.Tensor

    def squared(self) -> torch.Tensor:
        """Squared magnitude, at least `FLAT`."""
        return self.across.square() + self.down.square() + FLAT


def slopes(maps: torch.Tensor) -> Slopes:
    """3x3 Sobel filters with weights 1, 2, 1 and -1, 0, 1, without normalisation; the border is repeated outwards.

    Args:
        maps: (B, H, W) float.
    """
    padded = torch.nn.functional.pad(maps, (1, 1, 1, 1), mode="replicate")
    rising = padded[:, :, 2:] - padded[:, :, :-2]
    falling = padded[:, 2:] - padded[:, :-2]
    return Slopes(
        rising[:, :-2] + 2 * rising[:, 1:-1] + rising[:, 2:],
        falling[:, :, :-2] + 2 * falling[:, :, 1:-1] + falling[:, :, 2:],
    )


def edges(maps: torch.Tensor) -> torch.Tensor:
    """Sobel magnitude of maps (B, H, W), at least 1e-6."""
    return slopes(maps).squared().sqrt()


def thresholds(magnitudes: torch.Tensor, quantile: float = QUANTILE) -> torch.Tensor:
    """The smallest value with at least a share `quantile` of its own map at or below it; (B, 1, 1), without a graph."""
    flat = magnitudes.detach().flatten(1)
    rank = min(flat.shape[1], max(1, -int(-quantile * flat.shape[1] // 1)))  # the ceiling
    return flat.kthvalue(rank, dim=1).values.view(-1, 1, 1)


def soft_edges(maps: torch.Tensor, sharpness: float = SHARPNESS, quantile: float = QUANTILE) -> torch.Tensor:
    """How much every pixel is an edge, 0..1; exactly 0.5 at the threshold of its own map.

    Args:
        maps: (B, H, W) float, of unit standard deviation.
        sharpness: k, per unit of Sobel magnitude.
        quantile: share of the pixels that is no edge. The threshold is a constant to the gradient.
    """
    magnitudes = edges(maps)
    return torch.sigmoid(sharpness * (magnitudes - thresholds(magnitudes, quantile)))


def hard_edges(maps: torch.Tensor, quantile: float = QUANTILE) -> torch.Tensor:
    """The pixels above the threshold of their map, (B, H, W) bool; none of a flat one."""
    magnitudes = edges(maps)
    return magnitudes > thresholds(magnitudes, quantile)
