"""Pages of small pictures: a row per bit-width below the inputs, columns in groups, colour bars for what is shared."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from qpatchbench.report.figures.drawing.style import MAP, TWO_COLUMNS, new_figure
from qpatchbench.statistics.intervals import Array

TEXT = 6  # points, the smallest print
_GAP, _NOTE = 0.12, 0.85  # widths between groups and of notes, in panels
_LETTERS = 125  # in a line of the title
# Inches. Everything has its place: a layout that is solved for so many axes takes longer than all the drawing.
_LEFT, _BETWEEN, _LINE, _HEADING, _BAR, _BELOW = 0.22, 0.03, 0.105, 0.25, 0.07, 0.42


class Panel(NamedTuple):
    """A map (h, w) and what is said above it."""

    values: Array
    title: str


class PlacedPicture(NamedTuple):
    """A rectangle on the input, as shares of its side."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Column:
    """One input and its maps.

    Attributes:
        heading: above the input.
        image: (H, W, 3) uint8.
        panels: one per row.
        box: outlined in every picture; None: nothing.
    """

    heading: str
    image: Array
    panels: Sequence[Panel]
    box: PlacedPicture | None = None


@dataclass(frozen=True)
class PictureGroup:
    """Columns under one heading that share a colour scale.

    Attributes:
        heading: above the columns.
        columns: from left to right.
        scale: lowest and highest value of the colours.
        label: of the colour bar.
        notes: one text per row, to the right of the columns; none: no room for them.
        smooth: whether maps are drawn interpolated, because they are much coarser than the image.
    """

    heading: str
    columns: Sequence[Column]
    scale: tuple[float, float]
    label: str
    notes: Sequence[str] = ()
    smooth: bool = False


def page(title: str, rows: Sequence[str], groups: Sequence[PictureGroup], caption: str) -> Figure:
    """A page as wide as two columns of print.

    Args:
        title: what network and images.
        rows: names of the rows below the inputs.
        groups: from left to right; those with one scale and label share a colour bar.
        caption: what the titles above the panels mean.
    """
    told = [*textwrap.wrap(title, _LETTERS), *textwrap.wrap(caption, _LETTERS)]
    lines = max(panel.title.count("\n") + 1 for group in groups for column in group.columns for panel in column.panels)
    sheet = _Sheet(groups, len(rows), above=0.15 * len(told) + _HEADING + 0.05, between=lines * _LINE + 0.05)
    bars: dict[tuple[tuple[float, float], str], list[Axes]] = {}
    place = 0.0
    for number, group in enumerate(groups):
        maps = _group(sheet, group, place, rows if number == 0 else ())
        bars.setdefault((group.scale, group.label), []).extend(maps)
        place += _width(group) + _GAP
    for (_, label), maps in bars.items():
        _colour_bar(sheet, maps, label)
    sheet.figure.suptitle("\n".join(told), linespacing=1.3, fontsize=TEXT + 1.5, y=1 - 0.05 / sheet.height, va="top")
    return sheet.figure


class _Sheet:
    """Where things are on a page, in inches from its top left corner."""

    def __init__(self, groups: Sequence[PictureGroup], rows: int, above: float, between: float) -> None:
        panels = sum(map(_width, groups)) + _GAP * (len(groups) - 1)
        self.pitch = (TWO_COLUMNS - _LEFT) / panels
        self.side = self.pitch - _BETWEEN
        self.above, self.between = above, between
        self.height = above + self.side + rows * (self.side + between) + _BELOW
        self.figure = new_figure(TWO_COLUMNS, self.height)
        self.figure.set_layout_engine("none")

    def axes(self, place: float, row: int, width: float = 1.0) -> Axes:
        """Axes `place` panels from the left; row 0 are the inputs."""
        top = self.above + row * (self.side + self.between)
        return self.at(_LEFT + place * self.pitch, top, width * self.pitch - _BETWEEN, self.side)

    def at(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes anywhere."""
        bottom = self.height - top - height
        place = (left / TWO_COLUMNS, bottom / self.height, width / TWO_COLUMNS, height / self.height)
        return self.figure.add_axes(place)


def _width(group: PictureGroup) -> float:
    return len(group.columns) + (_NOTE if group.notes else 0.0)


def _group(sheet: _Sheet, group: PictureGroup, place: float, rows: Sequence[str]) -> list[Axes]:
    """Draw a group from `place`; the axes of its maps."""
    maps = []
    for number, column in enumerate(group.columns):
        axes = sheet.axes(place + number, 0)
        axes.imshow(column.image, interpolation="nearest", extent=(0, 1, 1, 0))
        above = f"{group.heading}\n" if number == 0 else "\n"
        axes.set_title(f"{above}{column.heading}", fontsize=TEXT, loc="left", pad=2)
        _frame(axes, column.box)
        for row, panel in enumerate(column.panels):
            axes = sheet.axes(place + number, row + 1)
            axes.imshow(
                panel.values.astype(np.float32),
                cmap=MAP,
                norm=Normalize(*group.scale),
                interpolation="bilinear" if group.smooth else "nearest",
                extent=(0, 1, 1, 0),
            )
            axes.set_title(panel.title, fontsize=TEXT, pad=1.5, linespacing=1.0)
            _frame(axes, column.box)
            if number == 0 and rows:
                axes.set_ylabel(rows[row], labelpad=3)
            maps.append(axes)
    for row, note in enumerate(group.notes):
        axes = sheet.axes(place + len(group.columns), row + 1, _NOTE)
        axes.set_axis_off()
        axes.text(0, 0.5, note, fontsize=TEXT, va="center", linespacing=1.25, transform=axes.transAxes)
    return maps


def _colour_bar(sheet: _Sheet, maps: Sequence[Axes], label: str) -> None:
    """A bar below the maps that it belongs to, half as wide as they are together."""
    first, last = maps[0].get_position(), maps[-1].get_position()
    left, width = first.x0 * TWO_COLUMNS, (last.x1 - first.x0) * TWO_COLUMNS
    axes = sheet.at(left + 0.2 * width, sheet.height - _BELOW + 0.06, 0.6 * width, _BAR)
    bar = sheet.figure.colorbar(maps[-1].images[0], cax=axes, orientation="horizontal")
    bar.locator = MaxNLocator(4)
    bar.update_ticks()
    bar.set_label(label, fontsize=TEXT + 0.5, labelpad=1)
    axes.tick_params(labelsize=TEXT, length=2, pad=1.5)
    axes.grid(visible=False)
    bar.outline.set_linewidth(0.4)


def _frame(axes: Axes, box: PlacedPicture | None) -> None:
    """No ticks, a thin frame, and the box in white on black, to be seen on any ground."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.4, color="#404040")
    if box is not None:
        for colour, width in (("black", 1.3), ("white", 0.6)):
            axes.add_patch(Rectangle(box[:2], box.width, box.height, fill=False, edgecolor=colour, linewidth=width))


def difference_box(first: Array, second: Array) -> PlacedPicture | None:
    """The smallest rectangle that holds every pixel in which two images (3, H, W) differ; None where they are equal."""
    rows, columns = np.nonzero((first != second).any(axis=0))
    if not len(rows):
        return None
    height, width = first.shape[-2:]
    left, top = columns.min(), rows.min()
    return PlacedPicture(
        float(left / width),
        float(top / height),
        float((columns.max() + 1 - left) / width),
        float((rows.max() + 1 - top) / height),
    )


def as_picture(pixels: Array) -> Array:
    """(3, H, W) -> (H, W, 3)."""
    return np.moveaxis(pixels, 0, -1)


def short(value: float) -> str:
    """A share in few letters.

    >>> short(0.284), short(-0.05), short(1.0)
    ('.28', '-.05', '1.0')
    """
    text = f"{value:.2f}"
    return text.replace("0.", ".", 1) if abs(value) < 0.995 else f"{value:.1f}"


def scientific(value: float) -> str:
    """A small number in few letters.

    >>> scientific(0.00412), scientific(0.0), scientific(3.2)
    ('4e-3', '0', '3.2')
    """
    if value == 0:
        return "0"
    return f"{value:.2g}" if value >= 0.01 else f"{value:.0e}".replace("e-0", "e-")
