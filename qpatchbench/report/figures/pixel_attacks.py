"""Accuracy under pixel attacks against epsilon and bit-widths.

Regenerates figure 1 of Guesmi, Ouni, Shafique 2025 (QADT-R, arXiv 2503.07058): FGSM, PGD, MI-FGSM and AutoAttack on the
bits of one network, white-box. The figure prints no numbers; what it is said to show (networks of few bits are ahead at
small epsilon and fall off more steeply) can be read off.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from qpatchbench.report.figures import Drawing
from qpatchbench.report.figures.drawing.points import Point, bits_label, families, finished_rows, rate
from qpatchbench.report.figures.drawing.style import (
    TWO_COLUMNS,
    LineStyle,
    beside,
    bits_styles,
    draw_line,
    file_name,
    grid_of_panels,
    legend_below,
    percent_axis,
)
from qpatchbench.report.leaderboard.published import RunFolder
from qpatchbench.report.leaderboard.row import SAME_NETWORK, Row

COLUMNS = 4
WHOLE_IMAGE = "100%"
_TOLD = ("name", "label", "epsilon")


class Strength(NamedTuple):
    """What a suite says of a pixel attack: whose curve it is a point of, and epsilon in [0, 1]."""

    panel: str
    epsilon: float


def pixel_attacks(folders: Sequence[RunFolder]) -> Iterator[Drawing]:
    """One drawing per family of networks, one panel per attack, one line per bit-width."""
    known = _strengths_of_rows(folders)
    titles = [*dict.fromkeys(each.panel for folder in folders for each in strengths(folder.suite).values())]
    for family, rows in families([row for row in finished_rows(folders) if row.key in known]):
        styles = bits_styles([row.target_bits for row in rows])
        curves = {title: [row for row in rows if known[row.key].panel == title] for title in titles}
        shown = {title: own for title, own in curves.items() if own}
        figure, grid = grid_of_panels(len(shown), COLUMNS, width=TWO_COLUMNS)
        for axes, (title, own) in zip(grid, shown.items(), strict=True):
            _panel(axes, [(known[row.key].epsilon, row) for row in own], styles)
            axes.set_title(title)
        figure.suptitle(f"{family.title}\nwhite-box pixel attacks, {rows[0].count('n_images'):,} images")
        legend_below(figure, grid, [bits_label(bits) for bits in styles])
        yield Drawing(file_name("pixel_attacks", *family.parts), figure)


def curve(points: Sequence[tuple[float, Row]]) -> list[Point]:
    """Accuracy of one network under one attack, from (epsilon, row): clean at 0, then by epsilon."""
    measured = {epsilon: rate(row, "robust_accuracy", epsilon) for epsilon, row in points}
    return sorted(({0.0: rate(points[0][1], "clean_accuracy", 0.0)} | measured).values())


def strengths(suite: Mapping[str, Any]) -> dict[str, Strength]:
    """By title, the attacks on the whole image that have an epsilon; those of one name share a panel.

    Attacks of one name and one epsilon differ in something else, for example in steps; then that tells panels apart.
    """
    by_name: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for attack in suite.get("attacks", ()):
        if "epsilon" in attack and attack.get("size") == WHOLE_IMAGE:
            by_name[attack["name"]].append(attack)
    return {
        attack.get("label") or name: Strength(_panel_title(attack, own), float(attack["epsilon"]))
        for name, own in by_name.items()
        for attack in own
    }


def _strengths_of_rows(folders: Sequence[RunFolder]) -> dict[tuple[str | int, ...], Strength]:
    """By key, the strength of the white-box rows of pixel attacks, as the first folder that has a row states it."""
    found: dict[tuple[str | int, ...], Strength] = {}
    for folder in folders:
        known = strengths(folder.suite)
        for row in finished_rows([folder]):
            if row.attack in known and row.lineage == SAME_NETWORK:
                found.setdefault(row.key, known[row.attack])
    return found


def _panel_title(attack: Mapping[str, Any], own: Sequence[Mapping[str, Any]]) -> str:
    name = str(attack["name"])
    if max(Counter(other["epsilon"] for other in own).values()) == 1:
        return name
    differing = [key for key in attack if key not in _TOLD and any(other.get(key) != attack[key] for other in own)]
    told = ", ".join(f"{key} {json.dumps(attack[key])}" for key in differing)
    return f"{name} ({told})" if told else name


def _panel(axes: Axes, points: Sequence[tuple[float, Row]], styles: Mapping[str, LineStyle]) -> None:
    places = [0.0, *(epsilon for epsilon, _ in points)]
    for (bits, style), shift in zip(styles.items(), beside(len(styles), places), strict=True):
        own = [(epsilon, row) for epsilon, row in points if row.target_bits == bits]
        if own:
            draw_line(axes, curve(own), style, bits_label(bits), shift=shift)
    axes.margins(x=0.06)
    axes.locator_params(axis="x", nbins=4)
    axes.set_xlabel("ε (pixels in [0, 1])")
    percent_axis(axes, "accuracy (%)")
