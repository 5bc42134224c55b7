"""A patch in a PNG file, whose transparent pixels it does not cover."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping

import numpy as np

from qpatchbench.statistics.intervals import Array

MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA"})
LARGEST_SIDE = 4096  # pixels
DAMAGE = (SyntaxError, struct.error, zlib.error, EOFError, LookupError, TypeError, ArithmeticError, AttributeError)


def picture(data: bytes) -> Mapping[str, Array]:
    """`patch` (3, h, w) uint8 and `mask` (h, w) uint8, the opacity.

    Raises:
        ValueError: no PNG file, damaged, moving, or of more than 8 bits a colour; OSError likewise.
    """
    pixels = _pixels(data)
    return {"patch": pixels[:3], "mask": pixels[3]}


def brightness(data: bytes) -> Array:
    """(h, w) uint8, the grey of an opaque PNG file, black where a patch does not cover; of another, its opacity.

    Raises:
        ValueError: as `picture`.
    """
    pixels = _pixels(data)
    see_through = bool((pixels[3] < np.iinfo(np.uint8).max).any())
    found: Array = pixels[3] if see_through else pixels[:3].max(axis=0)
    return found


def _pixels(data: bytes) -> Array:
    """(4, h, w) uint8: red, green, blue, opacity."""
    import PIL.Image as pillow
    from PIL import UnidentifiedImageError

    try:
        with pillow.open(io.BytesIO(data), formats=["PNG"]) as image:
            if max(image.size) > LARGEST_SIDE:
                raise ValueError(
                    f"expected at most {LARGEST_SIDE} pixels a side, found {image.size[1]}x{image.size[0]}"
                )
            if getattr(image, "is_animated", False):
                raise ValueError("expected a still image, found one of several frames")
            if image.mode not in MODES:
                raise ValueError(f"expected 8 bits for each colour, found the mode {image.mode}")
            pixels: Array = np.moveaxis(np.array(image.convert("RGBA")), -1, 0)
            return pixels
    except UnidentifiedImageError:
        raise ValueError("expected a PNG file, found another") from None
    except pillow.DecompressionBombError:
        raise ValueError(f"expected at most {LARGEST_SIDE} pixels a side, found many more") from None
    except DAMAGE as error:  # Pillow's decoders raise many kinds
        raise ValueError(f"damaged: {type(error).__name__}: {error}") from error
