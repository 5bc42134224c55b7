"""Similarity of several views of the same images as a penalty.

TriQDef (Guesmi, Ouni, Shafique 2026, ICLR, arXiv 2508.12132), equations 2 and 3:

    alpha * SoftDice(S(E(u)), S(E(v))) + beta * cos(H(u), H(v))    for every pair of views u, v

E are Sobel edges, S cuts them softly, H is a SoftHOG descriptor, see `ops.maps.similarity`. Descriptors are computed
once per view, and all pairs by one product.
"""  # noqa: D214 (a formula)

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch

from qpatchbench.ops.maps.similarity import (
    chance_level,
    cosine,
    pairwise_cosine,
    pairwise_soft_dice,
    soft_dice,
    soft_edges,
    soft_hog,
)
from qpatchbench.ops.randomness import derive_generator

_CHANCE_PIXELS = 128_000


class Measure(NamedTuple):
    """What counts as alike.

    Attributes:
        alpha: weight of edges.
        beta: weight of texture.
        sharpness: k of soft edges.
        quantile: q of soft edges.
        kappa: of SoftHOG.
        above_chance: count only what exceeds the similarity of independent noise.
        first_constant: of a pair, only the later view gets a gradient.
    """

    alpha: float
    beta: float
    sharpness: float
    quantile: float
    kappa: float
    above_chance: bool = False
    first_constant: bool = False


def pair_similarities(views: Sequence[torch.Tensor], measure: Measure) -> torch.Tensor:
    """The similarity of every pair of N views, each a mean over the images.

    Args:
        views: N >= 2 tensors of prepared maps (B, h, w), float32 or float64.
        measure: weights and descriptors.

    Returns:
        (N (N - 1) / 2,) in [0, alpha + beta], in single precision also under autocast.

    Raises:
        ValueError: the maps are too small for a HOG descriptor.
    """
    # Sixteen-bit products would round away the differences that are penalised.
    with torch.autocast(views[0].device.type, enabled=False):
        stacked = torch.stack(list(views))
        flat = stacked.flatten(0, 1)
        descriptors = soft_hog(flat, measure.kappa).view(*stacked.shape[:2], -1)
        cut = soft_edges(flat, measure.sharpness, measure.quantile).view_as(stacked)
        constant = measure.first_constant
        first, second = torch.triu_indices(len(views), len(views), offset=1, device=stacked.device)
        structure = pairwise_soft_dice(cut, cut.detach() if constant else cut)[second, first]
        texture = pairwise_cosine(descriptors, descriptors.detach() if constant else descriptors)[second, first]
        if measure.above_chance:
            size = (stacked.shape[2], stacked.shape[3])
            chance = _chance(size, measure.sharpness, measure.quantile, measure.kappa)
            structure, texture = (structure - chance[0]).clamp(min=0), (texture - chance[1]).clamp(min=0)
        return measure.alpha * structure + measure.beta * texture


@lru_cache(maxsize=64)
def _chance(size: tuple[int, int], sharpness: float, quantile: float, kappa: float) -> tuple[float, float]:
    """SoftDice and SoftHOG cosine of independent noise of that size; the same on every call and machine."""

    def structure(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return soft_dice(soft_edges(first, sharpness, quantile), soft_edges(second, sharpness, quantile))

    def texture(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return cosine(soft_hog(first, kappa), soft_hog(second, kappa))

    # Large maps hold many independent pixels, so fewer of them give the same precision.
    draws = max(16, _CHANCE_PIXELS // (size[0] * size[1]))
    return (
        chance_level(structure, size, draws, derive_generator(0, "chance", size)),
        chance_level(texture, size, draws, derive_generator(0, "chance", size)),
    )
