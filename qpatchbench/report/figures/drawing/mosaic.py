"""Grids of small pictures on one pair of axes: drawn much faster than one pair of axes per picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from qpatchbench.report.figures.drawing.style import REPORT_DPI, new_figure

TEXT = 0.34  # height of two lines of text below a tile; tiles are 1 x 1
GAP = 0.12


@dataclass(frozen=True)
class Tile:
    """One picture of a grid.

    Attributes:
        pixels: (h, w, 3) uint8, shown with hard pixel edges.
        text: below the picture.
        colour: of frame and text.
        line: style of the frame; a thin grey one, for pictures that end in white, if it is "".
    """

    pixels: np.ndarray[Any, Any]
    text: str = ""
    colour: str = "black"
    line: str = ""


def mosaic(
    title: str,
    rows: Sequence[tuple[str, Sequence[Tile | None]]],
    heads: Sequence[str],
    note: str = "",
    *,
    inches: float = 1.0,
) -> Figure:
    """Rows of pictures with a label at the left, and heads above the columns; None leaves a tile out."""
    columns = max(len(tiles) for _, tiles in rows)
    texts = any(tile and tile.text for _, tiles in rows for tile in tiles)
    step_x, step_y = 1 + GAP, 1 + GAP + (TEXT if texts else 0)
    reach = 0.2 + 0.075 * max((len(line) for label, _ in rows for line in label.split("\n")), default=0)
    lines = title.count("\n") + 1 + bool(note)
    width = max(columns * step_x * inches + reach + 0.2, 4.2)
    figure = new_figure(width, len(rows) * step_y * inches + 0.35 + 0.2 * lines, REPORT_DPI)
    axes = figure.add_subplot()
    for row, (_, tiles) in enumerate(rows):
        for column, tile in enumerate(tiles):
            if tile is not None:
                _draw(axes, tile, column * step_x, row * step_y)
    axes.set_xlim(-GAP / 2, columns * step_x - GAP / 2)
    axes.set_ylim(len(rows) * step_y - GAP / 2, -GAP / 2)
    axes.set_aspect("equal")
    axes.set_xticks([column * step_x + 0.5 for column in range(len(heads))], heads, fontsize=7)
    axes.set_yticks([row * step_y + 0.5 for row in range(len(rows))], [label for label, _ in rows], fontsize=7)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    figure.suptitle(title, fontsize=9)
    if note:
        figure.supxlabel(note, fontsize=7)
    return figure


def _draw(axes: Any, tile: Tile, left: float, top: float) -> None:  # noqa: ANN401 (matplotlib's Axes)
    axes.imshow(tile.pixels, extent=(left, left + 1, top + 1, top), interpolation="nearest")
    edge, width, line = (tile.colour, 2.0, tile.line) if tile.line else ("#b0b0b0", 0.6, "-")
    axes.add_patch(Rectangle((left, top), 1, 1, fill=False, edgecolor=edge, lw=width, linestyle=line))
    if tile.text:
        axes.text(left + 0.5, top + 1.05, tile.text, ha="center", va="top", fontsize=6.5, color=tile.colour)
