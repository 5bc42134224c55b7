"""Similarity of the bit-widths of a network: over layers and pairs, clean and patched, beside chance.

Regenerates figure 2 of TriQDef (Guesmi, Ouni, Shafique 2026, ICLR, arXiv 2508.12132), edge
IoU and HOG cosine of features, and draws what that figure leaves out: the level that independent noise reaches (0.77
for the HOG cosine), intervals, and the input gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qpatchbench.report.figures import Drawing
from qpatchbench.report.figures.drawing.points import Family, Point
from qpatchbench.report.figures.drawing.style import (
    CHANCE,
    GRID,
    TWO_COLUMNS,
    draw_line,
    file_name,
    legend_below,
    name_styles,
    new_figure,
)
from qpatchbench.report.leaderboard.class_names import shortened
from qpatchbench.report.leaderboard.keys import bits_order
from qpatchbench.report.leaderboard.published import RunFolder

METRICS = {"edge_iou": "edge IoU", "hog_cosine": "HOG cosine"}
CONTENTS = ("clean", "patched")
CHANCE_LABEL = "chance (independent noise)"
LAYERS = 4  # beside each other on one page
_NORMAL = 1.959964  # standard errors of a 95 % interval
_OWNER = ("model", "defense", "quantization")

Measures = Sequence[Mapping[str, Any]]


def similarity(folders: Sequence[RunFolder]) -> Iterator[Drawing]:
    """One drawing per dataset, model, defense and quantization, and LAYERS layers."""
    owners = {(folder.dataset, *(row[name] for name in _OWNER)) for folder in folders for row in folder.similarity}
    for dataset, model, defense, mode in sorted(owners):
        family = Family(dataset, model, defense, "none", mode)
        rows = _of(folders, family)
        layers = [*dict.fromkeys(row["layer"] for row in rows)]
        for first in range(0, len(layers), LAYERS):
            number = str(first // LAYERS + 1) if len(layers) > LAYERS else ""
            figure_name = file_name("similarity", *family.parts, number)
            yield Drawing(figure_name, _page(family, rows, layers[first : first + LAYERS]))


def pairs_of(rows: Measures) -> list[tuple[str, str]]:
    """Pairs of bit-widths, from those of most bits to those of fewest."""
    found = {(row["first_bits"], row["second_bits"]) for row in rows}
    return sorted(found, key=lambda pair: (bits_order(pair[0]), bits_order(pair[1])))


def mean_point(place: int, rows: Measures) -> Point:
    """The mean over seeds, at a place of the x axis; its interval knows the images and how far the seeds lie apart."""
    values = [row["value"] for row in rows]
    errors = [row["standard_error"] for row in rows]
    mean = sum(values) / len(values)
    if any(error is None or math.isnan(error) for error in errors):
        return Point(place, mean, math.nan, math.nan)
    variance = sum(error**2 for error in errors) / len(errors) ** 2
    if len(values) > 1:
        variance += sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)
    half = _NORMAL * math.sqrt(variance)
    return Point(place, mean, mean - half, mean + half)


def _of(folders: Sequence[RunFolder], family: Family) -> Measures:
    """The measures of the first folder that has any of them."""
    for folder in folders:
        rows = [row for row in folder.similarity if row["metric"] in METRICS and _is_of(row, family)]
        if rows and folder.dataset == family.dataset:
            return rows
    return ()


def _is_of(row: Mapping[str, Any], family: Family) -> bool:
    return all(row[name] == getattr(family, name) for name in _OWNER)


def _page(family: Family, rows: Measures, layers: Sequence[str]) -> Figure:
    pairs = pairs_of(rows)
    figure = new_figure(max(3.4, TWO_COLUMNS * len(layers) / LAYERS), 3.9)
    grid = figure.subplots(len(METRICS), len(layers), sharex=True, sharey="row", squeeze=False)
    for line, (metric, title) in zip(grid, METRICS.items(), strict=True):
        for axes, layer in zip(line, layers, strict=True):
            own = [row for row in rows if row["metric"] == metric and row["layer"] == layer]
            _panel(axes, own, pairs)
        line[0].set_ylabel(title)
        line[0].set_ylim(*_limits(rows, metric))
    for axes, layer in zip(grid[0], layers, strict=True):
        axes.set_title(shortened(layer.removeprefix("backbone."), 24))
    for axes in grid[-1]:
        axes.set_xticks(range(len(pairs)), [f"{first}–{second}" for first, second in pairs], rotation=90)
        axes.set_xlabel("pair of bit-widths")
    images = max((row["n_images"] for row in rows), default=0)
    figure.suptitle(f"{family.title}, mean of {images:,} images")
    legend_below(figure, grid.flat, [*CONTENTS, CHANCE_LABEL])
    return figure


def _panel(axes: Axes, rows: Measures, pairs: Sequence[tuple[str, str]]) -> None:
    for (content, style), shift in zip(name_styles(CONTENTS).items(), (-0.15, 0.15), strict=True):
        own = [(place, _chosen(rows, content, pair)) for place, pair in enumerate(pairs)]
        points = [mean_point(place, found) for place, found in own if found]
        if points:
            # Pairs have no order along which a line could lead.
            draw_line(axes, points, replace(style, dashes="none"), content, shift=shift)
    chances = [(place, _chance(rows, pair)) for place, pair in enumerate(pairs)]
    known = [(place, chance) for place, chance in chances if chance is not None]
    axes.hlines(
        [chance for _, chance in known],
        [place - 0.5 for place, _ in known],
        [place + 0.5 for place, _ in known],
        color=CHANCE,
        lw=1.2,
        label=CHANCE_LABEL,
        zorder=1,
    )
    for place in range(1, len(pairs)):
        if pairs[place][0] != pairs[place - 1][0]:
            axes.axvline(place - 0.5, color=GRID, lw=0.6, zorder=0)
    axes.set_xlim(-0.6, len(pairs) - 0.4)


def _chosen(rows: Measures, content: str, pair: tuple[str, str]) -> Measures:
    return [row for row in rows if row["images"] == content and (row["first_bits"], row["second_bits"]) == pair]


def _chance(rows: Measures, pair: tuple[str, str]) -> float | None:
    found = [row["chance"] for row in rows if (row["first_bits"], row["second_bits"]) == pair]
    return next((chance for chance in found if chance is not None), None)


def _limits(rows: Measures, metric: str) -> tuple[float, float]:
    """From the tenth below everything drawn, chance included, to just above 1, which identity reaches."""
    own = [row for row in rows if row["metric"] == metric]
    lowest = min(value for row in own for value in (row["value"], row["chance"]) if value is not None)
    return math.floor(10 * lowest - 0.2) / 10, 1.03
