"""From an image of any size to the square that a network sees, as timm's evaluation transforms do it.

Source: timm.data.transforms_factory.transforms_imagenet_eval (Wightman), whose pixels these are bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from qpatchbench.data.pictures import expect_pixels
from qpatchbench.errors import DataError, suggestion

if TYPE_CHECKING:
    from PIL.Image import Image, Resampling

# From an RGB image of any size to one of the dataset's side.
Fit: TypeAlias = "Callable[[Image], Image]"

CROP_MODES = ("center", "squash", "border")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


def exactly(side: int) -> Fit:
    """A fit that refuses every image that is not side x side."""

    def fit(image: Image) -> Image:
        if image.size != (side, side):
            raise ValueError(f"expected {side}x{side} pixels, found {image.width}x{image.height}")
        return image

    return fit


def resized_and_cropped(
    side: int,
    crop_fraction: float,
    interpolation: str,
    crop_mode: str = "center",
    fill: tuple[int, ...] = (0, 0, 0),
) -> Fit:
    """A fit that resizes an image to floor(side / crop_fraction), then crops its centre.

    Args:
        side: of the square that is made, pixels.
        crop_fraction: in (0, 1].
        interpolation: one of `INTERPOLATIONS`.
        crop_mode: what is resized to floor(side / crop_fraction). center: the shorter side, so that the ends of the
            longer one are lost; squash: both sides, which distorts; border: the longer side, and what is missing of the
            other gets the colour `fill`.
        fill: RGB, 0..255.

    Raises:
        DataError: unknown names, or an impossible fraction.
    """
    from PIL.Image import Resampling

    if interpolation not in INTERPOLATIONS:
        hint = suggestion(interpolation, INTERPOLATIONS)
        raise DataError(f"unknown interpolation {interpolation!r} for image files.{hint}")
    if crop_mode not in CROP_MODES:
        raise DataError(f"unknown crop_mode {crop_mode!r} for image files.{suggestion(crop_mode, CROP_MODES)}")
    if not 0 < crop_fraction <= 1:
        raise DataError(f"expected a crop_fraction in (0, 1], found {crop_fraction}")
    scaled, method = math.floor(side / crop_fraction), Resampling[interpolation.upper()]

    def fit(image: Image) -> Image:
        size = {"center": _shorter_side, "squash": _both_sides, "border": _longer_side}[crop_mode](image, scaled)
        resized = _resized(image, size, method)
        if crop_mode == "border":
            resized = _padded(resized, side, fill)
        left, top = round((resized.width - side) / 2), round((resized.height - side) / 2)
        return resized.crop((left, top, left + side, top + side))

    return fit


def _shorter_side(image: Image, scaled: int) -> tuple[int, int]:
    # Rounds down, as torchvision's Resize does.
    width, height = image.size
    if width <= height:
        return scaled, int(scaled * height / width)
    return int(scaled * width / height), scaled


def _both_sides(image: Image, scaled: int) -> tuple[int, int]:
    return scaled, scaled


def _longer_side(image: Image, scaled: int) -> tuple[int, int]:
    # Rounds to the nearest, as timm's ResizeKeepRatio does.
    ratio = max(image.height / scaled, image.width / scaled)
    return max(1, round(image.width / ratio)), max(1, round(image.height / ratio))


def _resized(image: Image, size: tuple[int, int], method: Resampling) -> Image:
    if size == image.size:
        return image
    expect_pixels(size)  # a line of pixels would become a plane
    return image.resize(size, method)


def _padded(image: Image, side: int, fill: tuple[int, ...]) -> Image:
    """At least side x side; an odd pixel goes to the right and to the bottom."""
    import PIL.Image as pillow

    size = max(side, image.width), max(side, image.height)
    if size == image.size:
        return image
    canvas = pillow.new("RGB", size, tuple(fill))
    canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return canvas
