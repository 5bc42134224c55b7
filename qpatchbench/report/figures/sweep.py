"""Attack success against patch size, shift and rotation, with what a random patch does beneath.

The curves behind tables 20 (shifts and rotations) and 21 (sizes) of Guesmi, Ouni, Shafique 2025 (QADT-R, arXiv
2503.07058), which print neither intervals nor a control, although a larger patch also covers more of the object.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qpatchbench.report.figures import Drawing
from qpatchbench.report.figures.drawing.points import bits_label, finished_rows, rate
from qpatchbench.report.figures.drawing.style import (
    ONE_COLUMN,
    TWO_COLUMNS,
    beside,
    bits_styles,
    draw_line,
    file_name,
    legend_below,
    name_styles,
    new_figure,
    percent_axis,
)
from qpatchbench.report.figures.drawing.sweep_pages import AXES, Page, numbers, pages
from qpatchbench.report.leaderboard.published import RunFolder


def sweep(folders: Sequence[RunFolder]) -> Iterator[Drawing]:
    """One drawing per attack, source and axis: the bit-widths of each defense, and the defenses at each bit-width."""
    for page in pages(finished_rows(folders)):
        yield Drawing(file_name("sweep", *page.parts), _figure(page))


def _figure(page: Page) -> Figure:
    labels = {name: bits_label(name) if page.by == "target_bits" else name for name in page.lines}
    figure = new_figure(*((ONE_COLUMN, 2.8) if len(labels) < 6 else (TWO_COLUMNS, 3.6)))
    attacked, control = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    styles = (bits_styles if page.by == "target_bits" else name_styles)([*page.lines])
    shifts = beside(len(labels), [_x(page, place) for place in page.places])
    highest = 0.0
    for (name, line), shift in zip(page.lines.items(), shifts, strict=True):
        for axes, rate_name in ((attacked, "asr"), (control, "asr_control")):
            points = [rate(row, rate_name, _x(page, place)) for place, row in line.items()]
            draw_line(axes, points, styles[name], labels[name], shift=shift)
            highest = max([highest, *(bound for point in points for bound in point[1:] if not math.isnan(bound))])
    percent_axis(attacked, "ASR (%)", highest)
    percent_axis(control, "random\npatch (%)", highest)
    _name_places(control, page)
    control.set_xlabel(AXES[page.axis])
    figure.suptitle(page.title)
    legend_below(figure, [attacked], [*labels.values()])
    return figure


def _x(page: Page, place: str) -> float:
    """Sizes and angles are numbers; of shifts, which have two, the order alone is shown."""
    return float(page.places.index(place)) if page.axis == "shift" else numbers(place)[0]


def _name_places(axes: Axes, page: Page) -> None:
    axes.set_xticks([_x(page, place) for place in page.places], page.places)
    axes.margins(x=0.06)
