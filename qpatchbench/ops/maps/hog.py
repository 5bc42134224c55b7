"""Histograms of oriented gradients (Dalal and Triggs 2005, CVPR): 4x4-pixel cells, blocks of 2x2 cells, 9 bins.

Unsigned orientations in 0..180 degrees; a block's histograms are divided by their norm, clipped at 0.2 and divided
again (L2-Hys); blocks overlap by a cell. TriQDef (Guesmi, Ouni, Shafique 2026, ICLR, arXiv 2508.12132) states cells and
blocks and leaves bins, signs, norm and overlap open; those here are Dalal and Triggs'. Its "SoftHOG" is not defined,
and the paper it cites (Kachouane et al. 2012) describes an ordinary HOG, so `soft_hog` is our own.
"""

from __future__ import annotations

import math

import torch

from qpatchbench.ops.maps.edges import slopes

BINS, CELL, BLOCK = 9, 4, 2
SMALLEST_SIDE = CELL * BLOCK
SHARPNESS = 10.0
_CLIP, _NORM_FLOOR = 0.2, 1e-6


def soft_hog(maps: torch.Tensor, kappa: float = SHARPNESS) -> torch.Tensor:
    """A descriptor that can be differentiated twice, also where a map is flat.

    A pixel with gradient of magnitude m and angle t votes m * softmax_i(kappa * cos 2(t - t_i)) for the bin centred at
    t_i. The doubled angle makes opposite directions one, and its cosine and sine are quotients: no arc tangent.

    Args:
        maps: (B, H, W) float, H and W at least 8; of unit standard deviation, lest flat ones count.
        kappa: how sharply a vote falls on one bin.

    Returns:
        (B, D) in [0, 1], D = 36 (H // 4 - 1) (W // 4 - 1).

    Raises:
        ValueError: the maps are too small for one block.
    """
    _require_a_block(maps)
    gradient = slopes(maps)
    squared = gradient.squared()
    cosine = (gradient.across.square() - gradient.down.square()) / squared
    sine = 2 * gradient.across * gradient.down / squared
    centres = _centres(maps)
    towards = (kappa * (2 * centres).cos()) * cosine.unsqueeze(1) + (kappa * (2 * centres).sin()) * sine.unsqueeze(1)
    return _blocks(squared.sqrt().unsqueeze(1) * towards.softmax(dim=1))


def hog(maps: torch.Tensor) -> torch.Tensor:
    """The usual descriptor, for measuring: a vote is shared linearly by the two nearest bins. As `soft_hog`."""
    _require_a_block(maps)
    gradient = slopes(maps)
    width = math.pi / BINS
    angles = torch.atan2(gradient.down, gradient.across).unsqueeze(1)
    away = torch.remainder((angles - _centres(maps)) / width + BINS / 2, BINS) - BINS / 2  # in bins, around the circle
    return _blocks(gradient.squared().sqrt().unsqueeze(1) * (1 - away.abs()).clamp(min=0))


def _centres(maps: torch.Tensor) -> torch.Tensor:
    index = torch.arange(BINS, dtype=maps.dtype, device=maps.device)
    return ((index + 0.5) * (math.pi / BINS)).view(1, -1, 1, 1)


def _require_a_block(maps: torch.Tensor) -> None:
    height, width = maps.shape[-2:]
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"expected maps of at least {SMALLEST_SIDE} x {SMALLEST_SIDE}, the {BLOCK} x {BLOCK} cells of a block, "
            f"found {height} x {width}"
        )


def _blocks(votes: torch.Tensor) -> torch.Tensor:
    """Votes (B, 9, H, W) -> descriptors (B, D)."""
    cells = torch.nn.functional.avg_pool2d(votes, CELL)
    rows, columns = cells.shape[-2] - 1, cells.shape[-1] - 1
    corners = [cells[..., i : i + rows, j : j + columns] for i in range(BLOCK) for j in range(BLOCK)]
    blocks = torch.cat(corners, dim=1)
    return _normalised(_normalised(blocks).clamp(max=_CLIP)).flatten(1)


def _normalised(blocks: torch.Tensor) -> torch.Tensor:
    return blocks / (blocks.square().sum(dim=1, keepdim=True) + _NORM_FLOOR).sqrt()
