"""Images and patches that a page holds once and puts together in many places, each patch where it lay."""

from __future__ import annotations

import base64
import html
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from qpatchbench.report.trace.row_images import PatchedImage
from qpatchbench.runs.example_images import Examples
from qpatchbench.runs.layout import patch_file
from qpatchbench.runs.patch_file import read_texture
from qpatchbench.runs.records import CellRecord
from qpatchbench.runs.run import Run
from qpatchbench.statistics.intervals import Array

SHARP = 96  # pixels a side up to which an image keeps its own; larger ones are made smaller
QUALITY = 85  # of a JPEG file


class Symbol(NamedTuple):
    """An <image> by its name in the page."""

    name: str
    svg: str


class ImageSheet:
    """Pictures in SVG that share their images and patches.

    Attributes:
        symbols: the images and patches used so far, in the order of their first use.
        size: bytes of all symbols and pictures so far.
    """

    def __init__(self, run: Run, examples: Examples, most: int) -> None:
        """A sheet that takes pictures as long as it has no more than `most` bytes."""
        self._run, self._examples, self._most = run, examples, most
        self._side = int(max(examples.pixels.shape[-2:]))
        self._known: dict[tuple[str | int, ...], Symbol] = {}
        self.symbols: dict[str, Symbol] = {}
        self.size = 0

    @property
    def sharp(self) -> bool:
        """Whether the images have their own pixels, which no browser should smooth."""
        return self._side <= SHARP

    def picture(self, cell: CellRecord, image: PatchedImage, text: str) -> str:
        """An image under the cell's patch, with a text for screen readers; empty where the sheet is full.

        Raises:
            ArtifactError: the patch's file has no such texture.
        """
        below, above = self._image(cell, image), self._patch(cell, image)
        height, width = self._examples.pixels.shape[-2:]
        picture = (
            f'<span class="shown" role="img" aria-label="{html.escape(text)}"><svg viewBox="0 0 {width} {height}">'
            f'<use href="#{below.name}"/>'
            f'<use href="#{above.name}" x="{image.answer.column}" y="{image.answer.row}"/></svg></span>'
        )
        new = {each.name: each for each in (below, above) if each.name not in self.symbols}
        size = self.size + len(picture.encode()) + sum(len(each.svg) for each in new.values())
        if size > self._most:
            return ""
        self.size = size
        self.symbols |= new
        return picture

    def _image(self, cell: CellRecord, image: PatchedImage) -> Symbol:
        pixels = self._examples.pixels_of(cell.model)
        shared = pixels is self._examples.pixels
        key = ("image", "" if shared else cell.model, image.example)
        if key not in self._known:
            self._known[key] = self._symbol(pixels[image.example])
        return self._known[key]

    def _patch(self, cell: CellRecord, image: PatchedImage) -> Symbol:
        key = ("patch", cell.patch, image.texture)
        if key not in self._known:
            path = self._run.directory / patch_file(cell.patch)
            self._known[key] = self._symbol(*read_texture(path, image.texture))
        return self._known[key]

    def _symbol(self, pixels: Array, mask: Array | None = None) -> Symbol:
        """As large as in the evaluation, whatever the size of the picture behind it."""
        height, width = pixels.shape[-2:]
        name, address = f"s{len(self._known)}", data_address(pixels, mask, min(1.0, SHARP / self._side))
        return Symbol(name, f'<image id="{name}" width="{width}" height="{height}" href="{address}"/>')


def data_address(pixels: Array, mask: Array | None = None, scale: float = 1.0) -> str:
    """A picture as a data: address: a PNG file where it is exact or has holes, and a JPEG file otherwise.

    Args:
        pixels: (3, H, W) uint8.
        mask: (1, H, W), 0 where the picture has a hole; None: it has none.
        scale: at most 1; both sides are made smaller by it, to one pixel at least.
    """
    layers = pixels
    if mask is not None and not (mask > 0).all():
        layers = np.concatenate([np.where(mask > 0, pixels, 0), np.where(mask > 0, 255, 0)]).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(np.moveaxis(layers, 0, -1)))
    buffer, kind = io.BytesIO(), "png"
    if scale < 1:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.BOX)
        kind = "jpeg" if len(layers) == 3 else "png"
    picture.save(buffer, kind, optimize=True, **({"quality": QUALITY} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
