"""Pictures of a page put together as a browser does: an image, and on it a patch, each from its data: address."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from qpatchbench.statistics.intervals import Array

_SYMBOL = re.compile(r'<image id="(\w+)" width="(\d+)" height="(\d+)" href="data:image/(\w+);base64,([^"]+)"/>')
_SHOWN = re.compile(
    r'<span class="shown" role="img" aria-label="([^"]+)"><svg viewBox="0 0 (\d+) (\d+)"><use href="#(\w+)"/>'
    r'<use href="#(\w+)" x="(\d+)" y="(\d+)"/></svg></span>'
)


class ShownImage(NamedTuple):
    """What stands below a picture, and its pixels: (3, H, W) uint8."""

    text: str
    pixels: Array


def shown_images(page: str, part: str) -> Iterator[ShownImage]:
    """Pictures in a part of a page; those that were made smaller cannot be put together here."""
    symbols = {found[0]: found[1:] for found in _SYMBOL.findall(page)}
    for text, across, down, below, above, column, row in _SHOWN.findall(part):
        image = _decoded(*symbols[below])
        assert image.size == (int(across), int(down))
        patch = _decoded(*symbols[above]).convert("RGBA")
        image.paste(patch, (int(column), int(row)), patch)
        yield ShownImage(html.unescape(text), np.moveaxis(np.asarray(image), -1, 0))


def opened(page: str, anchor: str) -> str:
    """What a row opens to."""
    start = page.index(f'id="{anchor}-more"')
    return page[start : page.index("</dl>", start)]


def _decoded(across: str, down: str, kind: str, data: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (image.format or "").lower() == kind
    assert image.size == (int(across), int(down))
    return image
