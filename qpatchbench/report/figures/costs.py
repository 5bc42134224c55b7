"""Time and memory of a training step beside the reference, against the bit-widths that are active.

Regenerates table 17 of TriQDef (Guesmi, Ouni, Shafique 2026, ICLR, arXiv 2508.12132) as a picture, and
tests what its text claims: that the cost grows with the bit-widths active. Where a run has each defense at one number
of bit-widths only, defenses stand below each other instead.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qpatchbench.report.figures import Drawing
from qpatchbench.report.figures.drawing.points import Point
from qpatchbench.report.figures.drawing.style import (
    CHANCE,
    TWO_COLUMNS,
    beside,
    draw_line,
    file_name,
    legend_below,
    name_styles,
    new_figure,
)
from qpatchbench.report.leaderboard.published import RunFolder

QUANTITIES = {"relative_time": "time of a step", "relative_memory": "peak memory of a step"}
Cost = Mapping[str, Any]


def costs(folders: Sequence[RunFolder]) -> Iterator[Drawing]:
    """One drawing per dataset, model, reference and seed: times of one measurement are comparable, others are not."""
    groups: dict[tuple[str, str, str, int], list[Cost]] = {}
    for folder in folders:
        own = defaultdict(list)
        for row in folder.costs:
            own[folder.dataset, row["model"], row["reference"], row["seed"]].append(row)
        groups = {**own, **groups}  # the first folder wins
    for (dataset, model, reference, seed), rows in sorted(groups.items()):
        several_seeds = len({key[3] for key in groups if key[:3] == (dataset, model, reference)}) > 1
        told = f", seed {seed}" if several_seeds else ""
        title = f"training {model} on {dataset}{told}, batches of {rows[0]['batch_size']}, relative to {reference}"
        figure = (_curves if _grows(rows) else _list)(rows, title)
        yield Drawing(file_name("costs", dataset, model, reference, seed if several_seeds else ""), figure)


def active_count(row: Cost) -> int:
    """How many bit-widths were active in the step."""
    return len(str(row.get("active_bits") or row["bits"]).split())


def ratio(row: Cost, name: str, x: float) -> Point:
    """A relative cost; that of time with the quartiles of the timed rounds, where the run has them."""
    return Point(x, row[name], row.get(f"{name}_low", math.nan), row.get(f"{name}_high", math.nan))


def _grows(rows: Sequence[Cost]) -> bool:
    """Whether some defense was measured with several numbers of bit-widths."""
    counts = defaultdict(set)
    for row in rows:
        counts[row["defense"]].add(active_count(row))
    return max(map(len, counts.values())) > 1


def _curves(rows: Sequence[Cost], title: str) -> Figure:
    defenses = [*dict.fromkeys(row["defense"] for row in rows)]
    styles = name_styles(defenses)
    shifts = beside(len(defenses), [active_count(row) for row in rows])
    figure = new_figure(TWO_COLUMNS, 2.5)
    panels = figure.subplots(1, len(QUANTITIES))
    for axes, (name, label) in zip(panels, QUANTITIES.items(), strict=True):
        for defense, shift in zip(defenses, shifts, strict=True):
            own = sorted((row for row in rows if row["defense"] == defense), key=active_count)
            draw_line(axes, [ratio(row, name, active_count(row)) for row in own], styles[defense], defense, shift=shift)
        axes.axhline(1, color=CHANCE, lw=0.8, ls=":", zorder=1)
        axes.set_ylim(bottom=0)
        axes.set_xticks(sorted({active_count(row) for row in rows}))
        axes.margins(x=0.08)
        axes.set_ylabel(f"{label} (ratio)")
        axes.set_xlabel("bit-widths active")
    figure.suptitle(title)
    legend_below(figure, panels, defenses)
    return figure


def _list(rows: Sequence[Cost], title: str) -> Figure:
    """Dots instead of bars: a bar would have to start at 0, and says no more."""
    figure = new_figure(TWO_COLUMNS, 0.9 + 0.17 * len(rows))
    panels = figure.subplots(1, len(QUANTITIES), sharey=True)
    style = name_styles(["all"])["all"]
    for axes, (name, label) in zip(panels, QUANTITIES.items(), strict=True):
        points = [ratio(row, name, place) for place, row in enumerate(rows)]
        _dots(axes, points, style.colour)
        axes.axvline(1, color=CHANCE, lw=0.8, ls=":", zorder=1)
        axes.set_xlim(0, 1.08 * max(max(point.y, 0 if math.isnan(point.high) else point.high) for point in points))
        axes.grid(axis="x", visible=True)
        axes.set_xlabel(f"{label} (ratio)")
    labels = [f"{row['defense']} ({active_count(row)})" for row in rows]
    panels[0].set_yticks(range(len(rows)), labels)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.suptitle(f"{title}; in brackets, bit-widths active")
    return figure


def _dots(axes: Axes, points: Sequence[Point], colour: str) -> None:
    known = [point for point in points if not math.isnan(point.low)]
    axes.hlines([p.x for p in known], [p.low for p in known], [p.high for p in known], color=colour, lw=0.8)
    axes.plot([point.y for point in points], [point.x for point in points], ls="", marker="o", color=colour, ms=3.5)
