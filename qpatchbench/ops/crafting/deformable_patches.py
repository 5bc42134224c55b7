"""Deformable patches: a star-shaped outline that pixels depend on differentiably.

The deformable patch representation of Chen et al. 2022 (Shape Matters: Deformable Patch Attack, ECCV): R rays of
lengths r_k leave a centre O at the angles 2 pi k / R, and their ends span a polygon of R triangles. A pixel C in the
triangle of the rays k and k + 1 has the ratio |OC| / |OD|, D being where the line OC meets the outline, and the mask
M(C) = (tanh(sharpness * (1 - |OC| / |OD|)) + 1) / 2, with M(O) = 1.

Written along the two rays, C - O = a e_k + b e_(k+1) with unit vectors e, the ratio is a / r_k + b / r_(k+1): no
intersection is ever computed, nothing is divided by a length that may vanish, and any R of 3 or more works (the
authors' published mask finds the triangle by the integer 360 // R, so their R has to divide 360). Angles run from the
direction of the columns to that of the rows, clockwise on the screen.

Multiplying all rays by c divides every ratio by c. So the pixels in the order of their ratios are those that a growing
polygon takes in one after the other, which is how a shape is fitted to an area exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch

from qpatchbench.ops.crafting.judgement import Judgement
from qpatchbench.ops.patches.locating import upright
from qpatchbench.ops.patches.pasting import paste, round_to_8_bit
from qpatchbench.ops.randomness import ImageDraws
from qpatchbench.types import Placement

SHORTEST = 1e-3  # pixels; a shorter ray counts as this long, so that a ratio is finite
TIE = 1e-6  # pixels whose ratios differ by less than this share enter a growing polygon together

# (patched images (B, 3, H, W), words that say at which step) -> how good they are; raises where they are not finite.
Judge: TypeAlias = Callable[["torch.Tensor", str], Judgement]
# Told the step of a run and the losses (B,) there.
Report: TypeAlias = Callable[[int, "torch.Tensor"], None]


class Boxes(NamedTuple):
    """Where B boxes lie on their images, and the centres of the shapes inside them.

    Attributes:
        placement: upright, top-left pixels.
        centres: (B, 2) float64, row and column in the box, pixels; the centre of pixel 0 is 0.
    """

    placement: Placement
    centres: torch.Tensor


class Sectors(NamedTuple):
    """The triangle of each pixel of B boxes, and the pixel's coordinates along the two rays that bound it.

    Attributes:
        number: (B, h, w) int64, k of the first ray in the sense of the angle.
        first, second: (B, h, w) float64, pixels, not negative: pixel - centre = first * e_k + second * e_(k+1).
    """

    number: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor


class FoundShape(NamedTuple):
    """What a run found for B images: textures (B, 3, h, w) on the 8-bit grid, hard masks, and how good they are."""

    textures: torch.Tensor
    masks: torch.Tensor
    judgement: Judgement


def boxes_around(squares: Placement, square_side: int, box_side: int, image_side: int) -> Boxes:
    """Boxes about the centres of squares, each pushed as little as needed to lie inside its image.

    A shape's centre remains that of its square, so in a box that was pushed it is not in the middle. What of a shape
    lies over the border is cut off, never moved.
    """
    corners = torch.stack((squares.rows, squares.columns), dim=1)
    pushed = (corners - (box_side - square_side) // 2).clamp(0, image_side - box_side)
    return Boxes(upright(pushed[:, 0], pushed[:, 1]), corners + (square_side - 1) / 2 - pushed.double())


def sectors_of(centres: torch.Tensor, side: int, rays: int) -> Sectors:
    """The triangles of all pixels of boxes of `side` x `side` pixels, for centres (B, 2) and at least 3 rays."""
    pixels = torch.arange(side, dtype=torch.float64, device=centres.device)
    down = pixels.view(1, -1, 1) - centres[:, 0].view(-1, 1, 1)
    right = pixels.view(1, 1, -1) - centres[:, 1].view(-1, 1, 1)
    turn = 2 * math.pi / rays
    angles = torch.atan2(down, right) % (2 * math.pi)
    # The remainder of a tiny negative angle may round to a full turn; the ratio is continuous there.
    index = (angles / turn).floor().clamp(max=rays - 1)
    within, scale = angles - index * turn, torch.hypot(down, right) / math.sin(turn)
    first, second = scale * torch.sin(turn - within), scale * torch.sin(within)
    return Sectors(index.long(), first.clamp(min=0), second.clamp(min=0))


def ratios(rays: torch.Tensor, sectors: Sectors) -> torch.Tensor:
    """|OC| / |OD| for rays (B, R) in pixels: (B, h, w), 0 in the centre, 1 on the outline."""
    count, inverse = rays.shape[1], 1 / rays.clamp(min=SHORTEST)
    index = sectors.number.flatten(1)
    along_first = sectors.first.to(rays.dtype).flatten(1) * inverse.gather(1, index)
    along_second = sectors.second.to(rays.dtype).flatten(1) * inverse.gather(1, (index + 1) % count)
    return (along_first + along_second).view(sectors.number.shape)


def soft_mask(rays: torch.Tensor, sectors: Sectors, sharpness: float) -> torch.Tensor:
    """Mask (B, 1, h, w) in [0, 1], differentiable in rays (B, R).

    The band in which it is neither 0 nor 1 is about 2 r / sharpness pixels wide. On an image of 32 x 32 the authors'
    sharpness of 100 leaves no pixel in that band, and most rays without a gradient.
    """
    ratio = ratios(rays, sectors)
    mask = torch.sigmoid(2 * sharpness * (1 - ratio))  # (tanh(z) + 1) / 2 is the sigmoid of 2 z
    return torch.where(ratio > 0, mask, torch.ones_like(mask)).unsqueeze(1)


def hard_mask(rays: torch.Tensor, sectors: Sectors) -> torch.Tensor:
    """Mask (B, 1, h, w) float32 in {0, 1}: whether a pixel's centre lies inside the outline."""
    return (ratios(rays, sectors) < 1).float().unsqueeze(1)


def fitted_mask(rays: torch.Tensor, sectors: Sectors, budget: int) -> torch.Tensor:
    """Hard mask (B, 1, h, w) of the same shape, grown or shrunk to the largest area of at most `budget` pixels.

    The budget binds whatever the rays are. A few pixels of it may remain where several would enter together.
    """
    ratio = ratios(rays.double(), sectors)
    ordered = ratio.flatten(1).sort(dim=1).values
    if budget >= ordered.shape[1]:
        return torch.ones_like(ratio, dtype=torch.float32).unsqueeze(1)
    limit = ordered[:, budget] * (1 - TIE)
    return (ratio < limit.view(-1, 1, 1)).float().unsqueeze(1)


def polygon_area(rays: torch.Tensor) -> torch.Tensor:
    """Area of the polygons of rays (B, R), square pixels: the sum of r_k r_(k+1) sin(2 pi / R) / 2."""
    return (rays * rays.roll(-1, dims=1)).sum(dim=1) * math.sin(2 * math.pi / rays.shape[1]) / 2


def of_area(rays: torch.Tensor, area: float) -> torch.Tensor:
    """Rays (B, R) scaled so that each polygon has the same area."""
    return rays * (area / polygon_area(rays)).sqrt().unsqueeze(1)


def of_length_1(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors (B, R) divided by their lengths; 0 stays 0."""
    largest = vectors.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny)
    scaled = vectors / largest  # so that squares of tiny numbers do not vanish
    return torch.nn.functional.normalize(scaled, dim=1)


def start_rays(restart: int, count: int, draws: ImageDraws) -> torch.Tensor:
    """Proportions (N, count) of the shape that a restart begins with.

    The first is a regular polygon (a circle), the second a star whose even rays are twice as long as its odd ones;
    all others are random, between half and three halves.
    """
    if restart > 1:
        return 0.5 + draws.uniform(count)
    even = (torch.arange(count, device=draws.seeds.device) % 2 == 0).float()
    return (1 + restart * even).expand(len(draws), -1)


def paste_softly(
    images: torch.Tensor, textures: torch.Tensor, masks: torch.Tensor, placement: Placement
) -> torch.Tensor:
    """Paste (1 - m) x + m p at upright places, differentiably in masks (B, 1, h, w) in [0, 1] too.

    With masks of zeros and ones it is `ops.patches.pasting.paste` to the bit.
    """
    height, width = textures.shape[-2:]
    rows, columns = placement.rows.to(images.device), placement.columns.to(images.device)
    under = images[
        torch.arange(len(images), device=images.device).view(-1, 1, 1, 1),
        torch.arange(images.shape[1], device=images.device).view(1, -1, 1, 1),
        (rows.view(-1, 1) + torch.arange(height, device=images.device)).view(-1, 1, height, 1),
        (columns.view(-1, 1) + torch.arange(width, device=images.device)).view(-1, 1, 1, width),
    ]
    return paste(images, (1 - masks) * under + masks * textures, torch.ones_like(masks[:1]), placement)


def best_texture(
    judge: Judge,
    images: torch.Tensor,
    textures: torch.Tensor,
    masks: torch.Tensor,
    placement: Placement,
    *,
    steps: int,
    step_size: float,
    report: Report,
) -> FoundShape:
    """The best iterate, rounded to 8 bits, of Adam on textures (B, 3, h, w) under hard masks; the start is one too."""
    textures = textures.clone().requires_grad_()
    optimizer = torch.optim.Adam([textures], lr=step_size)
    best, best_judgement = textures.detach(), Judgement.worst(len(masks), masks.device)
    for step in range(steps + 1):
        rounded = round_to_8_bit(textures.detach())
        # The gradient is that at the rounded texture, passed straight through the rounding.
        pasted = paste(images, textures + (rounded - textures.detach()), masks, placement)
        judgement = judge(pasted, f"at step {step} of {steps} under the final mask")
        better = judgement.better_than(best_judgement)
        best = torch.where(better.view(-1, 1, 1, 1), rounded, best)
        best_judgement = judgement.detached().where(better, best_judgement)
        if step == steps:
            break
        (textures.grad,) = torch.autograd.grad(judgement.losses.sum(), textures)
        optimizer.step()
        with torch.no_grad():
            textures.clamp_(0, 1)
        report(step, judgement.losses.detach())
    return FoundShape(best, masks, best_judgement)
