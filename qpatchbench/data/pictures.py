"""An image file as people see it: RGB, upright, still and opaque; or the reason why it is none of that.

Formats are listed, because Pillow hands some of the others to external programs, and the size is looked at before any
pixel is decoded, because a few kilobytes can stand for gigabytes.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = {
    ".bmp": "BMP",
    ".gif": "GIF",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".pbm": "PPM",
    ".pgm": "PPM",
    ".png": "PNG",
    ".pnm": "PPM",
    ".ppm": "PPM",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
SUFFIXES = frozenset(FORMATS)
MOST_BYTES = 200_000_000  # of an image file
MOST_PIXELS = 50_000_000  # of an image, decoded or resized; as RGB in Pillow's memory four bytes each
PLAIN_MODES = frozenset({"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"})
ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
DAMAGE = (SyntaxError, struct.error, zlib.error, EOFError, LookupError, TypeError, ArithmeticError, AttributeError)
OPAQUE = 255
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # TIFF tags
WIDE = 65535  # white in 16 bits


def opened(data: bytes) -> Image:
    """Bytes of an image file -> an image of mode RGB, as a viewer shows it.

    - The orientation that a camera noted (EXIF) is carried out.
    - 16-bit grey becomes the nearest of 256 levels; palettes, CMYK and one-bit images become RGB.
    - An alpha channel is dropped where it is opaque everywhere.

    Raises:
        ValueError: another format, more pixels than `MOST_PIXELS`, several frames, transparency, or a kind of pixel of
            which it is not clear how it looks.
        OSError: damaged.
    """
    try:
        return _opened(data)
    except DAMAGE as error:  # Pillow's decoders raise many kinds
        raise ValueError(f"damaged: {type(error).__name__}: {error}") from error


def _opened(data: bytes) -> Image:
    import PIL.Image as pillow
    from PIL import ImageOps, UnidentifiedImageError

    try:
        image: Image = pillow.open(io.BytesIO(data), formats=sorted(set(FORMATS.values())))
    except UnidentifiedImageError:
        raise ValueError(
            f"cannot identify its format; expected one of {', '.join(sorted(set(FORMATS.values())))}"
        ) from None
    except pillow.DecompressionBombError:
        raise ValueError(f"expected at most {MOST_PIXELS:,} pixels, found several times as many") from None
    with image:
        expect_pixels(image.size)
        moving = getattr(image, "is_animated", False)
        if moving and image.format != "MPO":  # a camera's JPEG whose further frames are previews
            raise ValueError("expected a still image, found one of several frames or pages")
        upright = ImageOps.exif_transpose(image) if _turned(image) else image
        return _rgb(upright)


def expect_pixels(size: tuple[int, int]) -> None:
    """Check a size (columns, rows) before memory is taken for it.

    Raises:
        ValueError: more than `MOST_PIXELS`.
    """
    columns, rows = size
    if columns * rows > MOST_PIXELS:
        raise ValueError(f"expected at most {MOST_PIXELS:,} pixels, found {columns}x{rows} = {columns * rows:,}")


def _turned(image: Image) -> bool:
    """Whether the file says that it is shown otherwise than stored; what cannot be read says nothing."""
    orientation = 0x0112
    try:
        return bool(image.getexif().get(orientation, 1) != 1)
    except (SyntaxError, ValueError, TypeError, struct.error):
        return False


def _rgb(image: Image) -> Image:
    if image.mode.startswith("I"):
        return _from_wide(image)
    if image.mode not in PLAIN_MODES | ALPHA_MODES:
        raise ValueError(f"expected grey, palette, RGB or CMYK pixels, found the mode {image.mode}")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] != OPAQUE:
            raise ValueError("expected an opaque image, found transparent pixels; lay it on a background first")
    return image.convert("RGB")


def _from_wide(image: Image) -> Image:
    """16-bit grey. Pillow itself would cut every value above 255 to white."""
    import numpy as np
    import PIL.Image as pillow

    tags = getattr(image, "tag_v2", {})
    # Pillow scales what a PGM or PNG file holds to 16 bits, but not what a TIFF file does.
    odd = image.format == "TIFF" and (
        image.mode == "I" or set(tags.get(BITS_PER_SAMPLE, ())) != {16} or tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
    )
    if odd or image.format not in {None, "PNG", "PPM", "TIFF"} or image.mode == "I;16S":
        raise ValueError(f"expected grey of 8 bits, or of 16 with black as zero, found the mode {image.mode}")
    if "transparency" in image.info:
        raise ValueError("expected an opaque image, found a transparent grey value; lay it on a background first")
    values = np.asarray(image).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > WIDE):
        raise ValueError(f"expected values in 0..{WIDE}, found {values.min()}..{values.max()}")
    levels = np.round(values * (OPAQUE / WIDE)).astype(np.uint8)
    return pillow.fromarray(levels).convert("RGB")
