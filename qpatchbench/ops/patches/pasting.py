"""Pasting a patch: x' = (1 - m) * x + m * p on the pixels under the patch, every other pixel untouched.

Placement without rotation or scaling is exact: the texture's own values land in the image. With rotation or
scaling, texture and mask are warped once with the same bilinear grid and the mask is cut at one half
(expectation over transformation, Athalye et al. 2018, arXiv 1707.07397).
"""

from __future__ import annotations

import math

import torch

from qpatchbench.types import Placement


def paste(images: torch.Tensor, textures: torch.Tensor, masks: torch.Tensor, placement: Placement) -> torch.Tensor:
    """Paste one texture on each image, differentiably in `textures` and `images`.

    Args:
        images: (B, 3, H, W) in [0, 1].
        textures: (B, 3, h, w), or (1, 3, h, w) for one patch on all images.
        masks: (B or 1, 1, h, w) in {0, 1}.
        placement: B placements; positions keep the unrotated patch inside the image.

    Returns:
        (B, 3, H, W); bit-identical to `images` outside the mask.
    """
    if not placement.upright and (bool((placement.angles != 0).any()) or bool((placement.scales != 1).any())):
        return _paste_warped(images, textures, masks, placement.to(images.device))
    return _blend(images, textures, masks, placement.rows.to(images.device), placement.columns.to(images.device))


def _blend(
    images: torch.Tensor,
    textures: torch.Tensor,
    masks: torch.Tensor,
    rows: torch.Tensor,
    columns: torch.Tensor,
) -> torch.Tensor:
    batch, channels = images.shape[:2]
    height, width = textures.shape[-2:]
    device = images.device
    index = (
        torch.arange(batch, device=device).view(-1, 1, 1, 1),
        torch.arange(channels, device=device).view(1, -1, 1, 1),
        (rows.view(-1, 1) + torch.arange(height, device=device)).view(batch, 1, height, 1),
        (columns.view(-1, 1) + torch.arange(width, device=device)).view(batch, 1, 1, width),
    )
    under = images[index]
    # torch.where keeps the image's bits where the mask is 0; a product with the mask would not keep NaN or -0.
    values = torch.where(masks > 0.5, textures.to(images.dtype), under)
    return images.index_put(index, values)


def _paste_warped(
    images: torch.Tensor, textures: torch.Tensor, masks: torch.Tensor, placement: Placement
) -> torch.Tensor:
    batch = len(images)
    height, width = textures.shape[-2:]
    window = math.ceil(math.hypot(height, width) * float(placement.scales.max())) + 1
    grid = _window_grid(placement, height, width, window).to(images.dtype)
    warped = torch.nn.functional.grid_sample(
        textures.expand(batch, -1, -1, -1), grid, padding_mode="border", align_corners=False
    )
    inside = torch.nn.functional.grid_sample(
        masks.to(images.dtype).expand(batch, -1, -1, -1), grid, padding_mode="zeros", align_corners=False
    )
    # A margin as wide as the window lets a rotated corner hang over the border, where it is cut off.
    margin = window
    padded = torch.nn.functional.pad(images, (margin,) * 4)
    top = placement.rows + margin + (height - window) // 2
    left = placement.columns + margin + (width - window) // 2
    pasted = _blend(padded, warped, inside, top, left)
    return pasted[..., margin:-margin, margin:-margin]


def _window_grid(placement: Placement, height: int, width: int, window: int) -> torch.Tensor:
    """Sampling grid (B, window, window, 2): for each window pixel, its position in the patch, in [-1, 1]."""
    offset = torch.arange(window, device=placement.angles.device, dtype=torch.float32)
    # Offsets from the patch centre, with the window placed as in _paste_warped.
    y = (offset + (height - window) // 2 - (height - 1) / 2).view(1, -1, 1)
    x = (offset + (width - window) // 2 - (width - 1) / 2).view(1, 1, -1)
    radians = torch.deg2rad(placement.angles).view(-1, 1, 1)
    scales = placement.scales.view(-1, 1, 1)
    # The inverse of a counter-clockwise turn; rows grow downwards.
    source_x = (torch.cos(radians) * x - torch.sin(radians) * y) / scales
    source_y = (torch.sin(radians) * x + torch.cos(radians) * y) / scales
    return torch.stack((source_x * 2 / width, source_y * 2 / height), dim=-1)


def round_to_8_bit(values: torch.Tensor) -> torch.Tensor:
    """The nearest k/255 in [0, 1], as a picture file stores it; the same as decoding a stored uint8."""
    return to_uint8(values).to(torch.float32) / 255


def to_uint8(values: torch.Tensor) -> torch.Tensor:
    """[0, 1] float -> uint8, rounding to nearest; never truncating, which would darken by half a level."""
    return (values.clamp(0, 1) * 255).round().to(torch.uint8)


def to_float(pixels: torch.Tensor) -> torch.Tensor:
    """Uint8 pixels -> float32 in [0, 1]."""
    return pixels.to(torch.float32) / 255
