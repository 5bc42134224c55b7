"""Feature maps of the first convolutions, clean and patched, at every bit-width.

Regenerates figure 3 of QADT-R (Guesmi, Ouni, Shafique 2025, arXiv 2503.07058). One colour scale for all panels of a
layer, so that what looks bright is large; above each panel the correlation with the same map at most bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from qpatchbench.report.figures import Drawing
from qpatchbench.report.figures.drawing.map_pages import MappedBackbone, mapped_backbones
from qpatchbench.report.figures.drawing.picture_grid import (
    Column,
    Panel,
    PictureGroup,
    as_picture,
    difference_box,
    page,
    short,
)
from qpatchbench.report.figures.drawing.style import file_name
from qpatchbench.report.leaderboard.class_names import shortened
from qpatchbench.report.leaderboard.published import RunFolder
from qpatchbench.statistics.intervals import Array


def features(folders: Sequence[RunFolder]) -> Iterator[Drawing]:
    """One drawing per backbone and image."""
    for backbone in mapped_backbones(folders):
        for index in range(backbone.count):
            name = file_name("features", *backbone.family, f"seed{backbone.seed}", f"image{index + 1}")
            yield Drawing(name, _page(backbone, index))


def _page(backbone: MappedBackbone, index: int) -> Figure:
    contents = [content for content in ("clean", "patched") if content in backbone.facts["contents"]]
    label = backbone.class_name(int(backbone.array("labels")[index]))
    groups = [_layer(backbone, index, layer, contents) for layer in backbone.facts["layers"]]
    caption = f"true class: {label}; r: correlation with the map at {backbone.bits[0]} bits"
    return page(backbone.title, backbone.headings, groups, caption)


def _layer(backbone: MappedBackbone, index: int, layer: str, contents: Sequence[str]) -> PictureGroup:
    clean = backbone.array("pixels", "clean")[index]
    columns, values = [], []
    for content in contents:
        pixels = backbone.array("pixels", content)[index]
        maps = [backbone.array("features", content, bits, layer)[index].astype(np.float64) for bits in backbone.bits]
        panels = [Panel(each, f"r {short(correlation(maps[0], each))}") for each in maps]
        columns.append(Column(content, as_picture(pixels), panels, difference_box(clean, pixels)))
        values += maps
    scale = min(float(each.min()) for each in values), max(float(each.max()) for each in values)
    name = shortened(layer.removeprefix("backbone."), 28)
    return PictureGroup(name, columns, scale, f"{name}, mean over channels")


def correlation(first: Array, second: Array) -> float:
    """Pearson's r of two maps of one shape; 0 where one is flat."""
    one, other = first - first.mean(), second - second.mean()
    size = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / size if size > 0 else 0.0
