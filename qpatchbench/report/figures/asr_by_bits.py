"""ASR against target bits, with intervals, beside the random control and clean accuracy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from qpatchbench.report.figures import Drawing
from qpatchbench.report.figures.drawing.points import finished_rows, modes_of
from qpatchbench.report.figures.drawing.style import (
    COLOURS,
    GREY,
    MARKERS,
    REPORT_DPI,
    file_name,
    new_figure,
)
from qpatchbench.report.leaderboard.class_names import shortened
from qpatchbench.report.leaderboard.keys import FLOAT_BITS, bits_order
from qpatchbench.report.leaderboard.published import RunFolder
from qpatchbench.report.leaderboard.row import EXTERNAL, FLOAT_MODE, SAME_NETWORK, Row

PANELS = 9  # per picture
COLUMNS = 3
# How a line's rows are chosen, by the name of the picture.
VIEWS = {
    "white-box": "white-box patches",
    "from-32-bits": "patches crafted at 32 bits on the same model and defense",
    "from-elsewhere": "patches made elsewhere",
}


class Curves(NamedTuple):
    """Rows of one panel: a mode of quantization of one model, defense and preprocessor, and its float network."""

    mode: str
    rows: Sequence[Row]


class CurvePage(NamedTuple):
    """One picture: its file's name, what it shows, and at most PANELS panels."""

    name: str
    title: str
    panels: Sequence[Curves]


def asr_by_bits(folders: Sequence[RunFolder]) -> Iterator[Drawing]:
    """One drawing per dataset, size, view and PANELS panels."""
    return map(curve_page, curve_pages([row for row in finished_rows(folders) if not row.transformation]))


def curve_pages(rows: Sequence[Row]) -> Iterator[CurvePage]:
    """All pictures."""
    groups: dict[tuple[str, int, int], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.dataset, row.patch_height, row.patch_width].append(row)
    for key in sorted(groups):
        dataset, size = key[0], groups[key][0].size
        for view, what in VIEWS.items():
            found = [*_panels([row for row in groups[key] if _viewed(row, view)])]
            for first in range(0, len(found), PANELS):
                number = str(first // PANELS + 1) if len(found) > PANELS else ""
                name = file_name("bits", dataset, size, view, number)
                yield CurvePage(name, f"{what}, {size} on {dataset}", found[first : first + PANELS])


def curve_page(page: CurvePage) -> Drawing:
    """One picture; every attack keeps its colour and marker in all panels."""
    found = page.panels
    attacks = sorted({_line_name(row) for panel in found for row in panel.rows})
    columns = min(COLUMNS, len(found))
    lines = -(-len(found) // columns)
    figure = new_figure(max(4.8, 2.9 * columns + 0.4), 2.3 * lines + 1.0, REPORT_DPI)
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for axes, panel in zip(grid.flat, found, strict=False):
        _panel(axes, panel, attacks)
    for axes in list(grid.flat)[len(found) :]:
        axes.set_visible(False)
    handles = {text: handle for axes in grid.flat for handle, text in zip(*_legend(axes), strict=True)}
    figure.suptitle(page.title, fontsize=10)
    for axes in list(grid.flat)[max(0, len(found) - columns) : len(found)]:
        axes.set_xlabel("target (bits)")
    figure.supylabel("ASR, accuracy (%)", fontsize=9)
    shown = [text for text in (*attacks, "random control", "clean accuracy") if text in handles]
    figure.legend(
        [handles[text] for text in shown],
        shown,
        loc="outside lower center",
        ncols=min(3 if columns == 1 else 5, len(shown)),
        frameon=False,
    )
    return Drawing(page.name, figure, page.title)


def _viewed(row: Row, view: str) -> bool:
    if view == "white-box":
        return row.lineage == SAME_NETWORK
    if view == "from-elsewhere":
        return row.lineage == EXTERNAL
    own = (row.source_model, row.source_defense) == (row.model, row.defense) and row.source_preprocessor == "none"
    return own and (row.source_bits, row.source_quantization) == (FLOAT_BITS, FLOAT_MODE)


def _panels(rows: Sequence[Row]) -> Iterator[Curves]:
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.model, row.defense, row.preprocessor].append(row)
    for key in sorted(groups):
        for mode in modes_of(groups[key]):
            yield Curves(mode, [row for row in groups[key] if row.quantization in (mode, FLOAT_MODE)])


def _line_name(row: Row) -> str:
    return f"{row.attack} ({row.seen})" if row.seen else row.attack


def _panel(axes: Axes, panel: Curves, attacks: Sequence[str]) -> None:
    rows = panel.rows
    bits = sorted({row.target_bits for row in rows}, key=bits_order)
    places = {name: place for place, name in enumerate(bits)}
    one_each = {row.target_bits: row for row in reversed(rows)}  # the first row of every network
    background = [one_each[name] for name in bits]
    clean = [row.number("clean_accuracy") for row in background]
    axes.plot(range(len(bits)), clean, color="#b0b0b0", lw=1.2, label="clean accuracy")
    control = [row.number("asr_control") for row in background]
    axes.plot(range(len(bits)), control, color=GREY, ls="--", lw=1.3, marker=".", label="random control")
    present = [attack for attack in attacks if attack in {_line_name(row) for row in rows}]
    for number, attack in enumerate(present):
        own = [row for row in rows if _line_name(row) == attack and row.measured("asr")]
        own.sort(key=lambda row: places[row.target_bits])
        shift = 0.12 * (number - (len(present) - 1) / 2)  # beside each other, so that bars do not cover bars
        style = attacks.index(attack)
        values, bounds = [row.number("asr") for row in own], [row.interval("asr") for row in own]
        below = [max(0.0, value - low) for value, (low, _) in zip(values, bounds, strict=True)]
        above = [max(0.0, high - value) for value, (_, high) in zip(values, bounds, strict=True)]
        axes.errorbar(
            [places[row.target_bits] + shift for row in own],
            values,
            yerr=[below, above],
            color=COLOURS[style % len(COLOURS)],
            marker=MARKERS[style % len(MARKERS)],
            ms=4,
            lw=1.4,
            elinewidth=1,
            capsize=2,
            label=attack,
        )
    axes.set_xticks(range(len(bits)), bits)
    axes.set_xlim(-0.4, len(bits) - 0.6)
    axes.set_ylim(-2, 102)
    axes.set_yticks(range(0, 101, 25))
    axes.grid(axis="y", color="#e6e6e6", lw=0.6)
    axes.set_axisbelow(True)
    title = (rows[0].model, f"{rows[0].defended}, {panel.mode}")
    axes.set_title("\n".join(shortened(line, 36) for line in title), fontsize=8)


def _legend(axes: Axes) -> tuple[list[Any], list[str]]:
    handles, labels = axes.get_legend_handles_labels()
    return list(handles), [str(label) for label in labels]
