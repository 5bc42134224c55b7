"""Accuracy under pixel attacks against epsilon and bit-widths.

Regenerates figure 1 of Guesmi, Ouni, Shafique 2025 (QADT-R, arXiv 2503.07058): FGSM, PGD, MI-FGSM and AutoAttack on the
bit-widths of one network, white-box. The figure prints no numbers; what it is said to show (narrow networks are ahead
at small epsilon and fall off more steeply) can be read off.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from qpatchbench.report.figures import Drawing
from qpatchbench.report.figures.drawing import file_name
from qpatchbench.report.figures.rows import SAME_NETWORK, Point, bits_label, families, finished_rows, rate
from qpatchbench.report.figures.style import (
    TWO_COLUMNS,
    LineStyle,
    beside,
    bits_styles,
    draw_line,
    grid_of_panels,
    legend_below,
    percent_axis,
)
from qpatchbench.report.leaderboard.published import Row, RunFolder

COLUMNS = 4
WHOLE_IMAGE = "100%"
_TOLD = ("name", "label", "epsilon")


class Strength(NamedTuple):
    """What a suite says of a pixel attack: whose curve it is a point of, and epsilon in [0, 1]."""

    panel: str
    epsilon: float


def pixel_attacks(folders: Sequence[RunFolder]) -> Iterator[Drawing]:
    """One drawing per family of networks, one panel per attack, one line per bit-width."""
    panels = [*dict.fromkeys(found.panel for folder in folders for found in strengths(folder.suite).values())]
    for family, rows in families(finished_rows([_pixel_attacks_alone(folder) for folder in folders])):
        styles = bits_styles([row["target_bits"] for row in rows])
        own_panels = [panel for panel in panels if any(row["panel"] == panel for row in rows)]
        figure, grid = grid_of_panels(len(own_panels), COLUMNS, width=TWO_COLUMNS)
        for axes, panel in zip(grid, own_panels, strict=True):
            _panel(axes, [row for row in rows if row["panel"] == panel], styles)
            axes.set_title(panel)
        figure.suptitle(f"{family.title}\nwhite-box pixel attacks, {int(rows[0]['n_images']):,} images")
        legend_below(figure, grid, [bits_label(bits) for bits in styles])
        yield Drawing(file_name("pixel_attacks", *family.parts), figure)


def curve(rows: Sequence[Row]) -> list[Point]:
    """Accuracy of one network under one attack: clean at 0, then by epsilon."""
    measured = {float(row["epsilon"]): rate(row, "robust_accuracy", float(row["epsilon"])) for row in rows}
    return sorted(({0.0: rate(rows[0], "clean_accuracy", 0.0)} | measured).values())


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


def _pixel_attacks_alone(folder: RunFolder) -> RunFolder:
    """The folder with its white-box rows of pixel attacks; they learn their panel and epsilon."""
    known = strengths(folder.suite)
    rows = [row for row in folder.rows if row["attack"] in known and row["lineage"] == SAME_NETWORK]
    found = [(row, known[row["attack"]]) for row in rows]
    return replace(
        folder, rows=tuple({**row, "panel": each.panel, "epsilon": repr(each.epsilon)} for row, each in found)
    )


def _panel_title(attack: Mapping[str, Any], own: Sequence[Mapping[str, Any]]) -> str:
    name = str(attack["name"])
    if max(Counter(other["epsilon"] for other in own).values()) == 1:
        return name
    differing = [key for key in attack if key not in _TOLD and any(other.get(key) != attack[key] for other in own)]
    told = ", ".join(f"{key} {json.dumps(attack[key])}" for key in differing)
    return f"{name} ({told})" if told else name


def _panel(axes: Axes, rows: Sequence[Row], styles: Mapping[str, LineStyle]) -> None:
    places = [0.0, *(float(row["epsilon"]) for row in rows)]
    for (bits, style), shift in zip(styles.items(), beside(len(styles), places), strict=True):
        own = [row for row in rows if row["target_bits"] == bits]
        if own:
            draw_line(axes, curve(own), style, bits_label(bits), shift=shift)
    axes.margins(x=0.06)
    axes.locator_params(axis="x", nbins=4)
    axes.set_xlabel("ε (pixels in [0, 1])")
    percent_axis(axes, "accuracy (%)")
