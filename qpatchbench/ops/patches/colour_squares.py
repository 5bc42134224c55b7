"""Random squares of colour on a patch, each image with draws of its own; colours are the corners of {0, 1}^3.

The proposals of Sparse-RS for patches (Croce, Andriushchenko, Singh, Flammarion, Hein 2022, arXiv 2006.12834), as in
the authors' code. Textures are (B, 3, s, s) throughout, with values in {0, 1}; none is changed in place.
"""

from __future__ import annotations

import math

import torch

from qpatchbench.ops.randomness import ImageDraws

# The authors paint this many on the initial patch, so that hardly a pixel of a large one stays black.
INITIAL_SQUARES = 1000


def patchwork(side: int, draws: ImageDraws) -> torch.Tensor:
    """(B, 3, side, side): squares of 1 to ceil(sqrt(side)) - 1 pixels, at least 1, painted over each other on black."""
    largest = max(1, math.ceil(math.sqrt(side)) - 1)
    squares = draws.uniform(INITIAL_SQUARES, 6).double()
    textures = torch.zeros(len(draws), 3, side, side, device=draws.seeds.device)
    bare = torch.ones(len(draws), 1, side, side, dtype=torch.bool, device=draws.seeds.device)
    # The topmost square first: nothing below it has to be painted, and all ends where no pixel is bare.
    for square in squares.unbind(dim=1):
        sizes = 1 + (square[:, 0] * largest).long()
        corners = (square[:, 1:3] * (side - sizes + 1).view(-1, 1)).long()
        inside = _within(corners, sizes, side) & bare
        textures = torch.where(inside, (square[:, 3:] * 2).floor().float()[:, :, None, None], textures)
        bare = bare & ~inside
        if not bool(bare.any()):
            break
    return textures


def with_square(textures: torch.Tensor, size: int, draws: ImageDraws) -> torch.Tensor:
    """Each texture with one square of `size` pixels at a random place, all of it in one random colour."""
    side = textures.shape[-1]
    inside = _within(draws.integers(side - size + 1, 2), torch.full_like(draws.seeds, size), side)
    return torch.where(inside, draws.integers(2, 3).float()[:, :, None, None], textures)


def with_another_colour(textures: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
    """Each texture with one random pixel in another colour than it has, the seven others being equally likely."""
    places = torch.tensor((4, 2, 1), device=textures.device)
    inside, pixel = _pixel(textures, draws)
    code = (pixel.long() * places).sum(dim=1) + 1 + draws.integers(7)
    colours = (code.view(-1, 1) // places % 2).float()
    return torch.where(inside, colours[:, :, None, None], textures)


def with_channel_flipped(textures: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
    """Each texture with one random channel of one random pixel turned from 0 to 1 or from 1 to 0."""
    inside, _ = _pixel(textures, draws)
    chosen = torch.arange(3, device=textures.device) == draws.integers(3).view(-1, 1)
    return torch.where(inside & chosen[:, :, None, None], 1 - textures, textures)


def _within(corners: torch.Tensor, sizes: torch.Tensor, side: int) -> torch.Tensor:
    """(B, 1, side, side) bool: the squares with top-left pixels (B, 2) and sizes (B,)."""
    along = torch.arange(side, device=corners.device)
    past = corners.unsqueeze(2) + sizes.view(-1, 1, 1)
    covered = (along >= corners.unsqueeze(2)) & (along < past)
    return covered[:, None, 0, :, None] & covered[:, None, 1, None, :]


def _pixel(textures: torch.Tensor, draws: ImageDraws) -> tuple[torch.Tensor, torch.Tensor]:
    """One random pixel of each texture: where it is, (B, 1, s, s) bool, and its colour (B, 3)."""
    side = textures.shape[-1]
    corners = draws.integers(side, 2)
    image = torch.arange(len(textures), device=textures.device)
    inside = _within(corners, torch.ones_like(draws.seeds), side)
    return inside, textures[image, :, corners[:, 0], corners[:, 1]]
