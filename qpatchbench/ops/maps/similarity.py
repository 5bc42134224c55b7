"""Similarity of feature maps or input gradients, in structure (edges) and texture (HOG).

The measures of TriQDef (Guesmi, Ouni, Shafique 2026, ICLR, arXiv 2508.12132), section 3.2. Two facts shape this file.
Their descriptors of edges depend on the scale of a map, and raw input gradients are so small that every soft edge is
0.5 and every SoftDice one half; so maps are standardised first (`prepared`). And independent noise is not at 0: its HOG
descriptors have a cosine near 0.77, so a figure means something only against its chance level (`chance_corrected`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch

from qpatchbench.ops.maps.edges import QUANTILE, edges, hard_edges, soft_edges
from qpatchbench.ops.maps.hog import hog, soft_hog

__all__ = [
    "chance_corrected",
    "chance_level",
    "cosine",
    "edge_iou",
    "edges",
    "hog",
    "intersection_over_union",
    "mean_squared_error",
    "pairwise_cosine",
    "pairwise_soft_dice",
    "prepared",
    "soft_dice",
    "soft_edges",
    "soft_hog",
]

# Maps (B, h, w) and (B, h, w) -> (B,), one similarity each.
Metric: TypeAlias = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]

POOLED_FROM = 16
_DICE_FLOOR = 1e-6
_VARIANCE_FLOOR = 1e-16


def prepared(maps: torch.Tensor) -> torch.Tensor:
    """What is compared of features or gradients: channel mean, half the resolution, zero mean and unit deviation.

    The mean is signed, as in TriQDef's Algorithm 1; resolution is halved (its appendix D) where 8 pixels remain.

    Args:
        maps: (B, C, H, W) of any float dtype.

    Returns:
        (B, H', W') float32, or float64 for float64 maps; zeros for a flat map.
    """
    # Sixteen-bit floats have too few digits for the variance of nearly flat maps.
    mean = maps.to(torch.promote_types(maps.dtype, torch.float32)).mean(dim=1)
    if min(mean.shape[-2:]) >= POOLED_FROM:
        mean = torch.nn.functional.avg_pool2d(mean, 2)
    centred = mean - mean.mean(dim=(1, 2), keepdim=True)
    return centred * (centred.square().mean(dim=(1, 2), keepdim=True) + _VARIANCE_FLOOR).rsqrt()


def soft_dice(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """2 sum(A B) / (sum A + sum B + 1e-6), (B,) in [0, 1], of soft edges (B, h, w); below 1 even for equal ones."""
    both = (first * second).flatten(1).sum(dim=1)
    return 2 * both / (first.flatten(1).sum(dim=1) + second.flatten(1).sum(dim=1) + _DICE_FLOOR)


def edge_iou(first: torch.Tensor, second: torch.Tensor, quantile: float = QUANTILE) -> torch.Tensor:
    """Intersection over union of the hard edges of maps (B, h, w); (B,) in [0, 1], 1 where neither has any."""
    return intersection_over_union(hard_edges(first, quantile), hard_edges(second, quantile))


def intersection_over_union(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Of sets of pixels (B, h, w) bool, for example hard edges; (B,) in [0, 1], 1 where both are empty."""
    one, other = first.flatten(1), second.flatten(1)
    union = (one | other).sum(dim=1)
    return torch.where(union > 0, (one & other).sum(dim=1) / union.clamp(min=1), 1.0)


def cosine(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Cosine of descriptors or of raw gradients (B, ...); (B,) in [-1, 1], 0 where one is zero."""
    return torch.nn.functional.cosine_similarity(first.flatten(1), second.flatten(1), dim=1)


def mean_squared_error(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of tensors (B, ...); (B,), at least 0, a distance and no similarity."""
    return (first - second).square().flatten(1).mean(dim=1)


def pairwise_soft_dice(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Mean over the images of `soft_dice` between N and M views: soft edges (N, B, h, w), (M, B, h, w) -> (N, M)."""
    one, other = (edge_maps.flatten(2).transpose(0, 1) for edge_maps in (first, second))
    sizes = one.sum(dim=2).unsqueeze(2) + other.sum(dim=2).unsqueeze(1)
    return (2 * (one @ other.transpose(1, 2)) / (sizes + _DICE_FLOOR)).mean(dim=0)


def pairwise_cosine(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Mean over the images of `cosine` between N and M views: descriptors (N, B, D), (M, B, D) -> (N, M)."""
    one, other = (torch.nn.functional.normalize(views, dim=2).transpose(0, 1) for views in (first, second))
    return (one @ other.transpose(1, 2)).mean(dim=0)


def chance_level(metric: Metric, size: tuple[int, int], draws: int, generator: torch.Generator) -> float:
    """Mean similarity of independent noise: what `metric` gives for maps that have nothing in common.

    Args:
        metric: of two prepared maps.
        size: (height, width) of the prepared maps, pixels.
        draws: pairs of maps of independent Gaussian pixels; the standard error falls with its root.
        generator: CPU generator.
    """
    noise = torch.randn(2, draws, 1, *size, generator=generator)
    centred = noise - noise.mean(dim=(3, 4), keepdim=True)
    # Not pooled: noise is noise at any resolution.
    first, second = (centred / centred.square().mean(dim=(3, 4), keepdim=True).sqrt()).squeeze(2)
    return float(metric(first, second).mean())


def chance_corrected(value: float, chance: float) -> float:
    """Similarity between chance, which becomes 0, and identity, which stays 1; negative below chance.

    >>> round(chance_corrected(0.81, 0.77), 2)
    0.17
    """
    return (value - chance) / (1 - chance)
