"""ASR against target bits, with intervals, beside the random control and clean accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from qpatchbench.report.figures.drawing import (
    COLOURS,
    GREY,
    MARKERS,
    Plot,
    file_name,
    fixed_settings,
    new_figure,
    png,
    shortened,
)
from qpatchbench.report.figures.transfer import FLOAT
from qpatchbench.report.leaderboard.keys import FLOAT_BITS, bits_order

PANELS = 9  # per picture
COLUMNS = 3
_FAMILY = ("model", "defense", "preprocessor")
# How a line's rows are chosen, by the name of the picture.
VIEWS = {"white-box": "white-box patches", "from-32-bits": "patches crafted at 32 bits on the same model and defense"}


def pages(frame: pd.DataFrame) -> Iterator[tuple[str, str, list[pd.DataFrame]]]:
    """(file name, title, rows of each panel) of every picture; pictures hold at most PANELS panels."""
    for (dataset, height, width), sized in frame.groupby(["dataset", "patch_height", "patch_width"], sort=True):
        for view, what in VIEWS.items():
            found = [*_panels(_viewed(sized, view))]
            for first in range(0, len(found), PANELS):
                number = str(first // PANELS + 1) if len(found) > PANELS else ""
                name = file_name("bits", dataset, f"{height}x{width}", view, number)
                yield name, f"{what}, {height}x{width} on {dataset}", found[first : first + PANELS]


def curve_page(name: str, title: str, found: Sequence[pd.DataFrame]) -> Plot:
    """One picture; every attack keeps its colour and marker in all panels."""
    attacks = sorted({label for rows in found for label in _line_names(rows)})
    columns = min(COLUMNS, len(found))
    lines = -(-len(found) // columns)
    with fixed_settings():
        figure = new_figure(max(4.8, 2.9 * columns + 0.4), 2.3 * lines + 1.0)
        grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
        for axes, rows in zip(grid.flat, found, strict=False):
            _panel(axes, rows, attacks)
        for axes in list(grid.flat)[len(found) :]:
            axes.set_visible(False)
        handles = {text: handle for axes in grid.flat for handle, text in zip(*_legend(axes), strict=True)}
        figure.suptitle(title, fontsize=10)
        for axes in list(grid.flat)[max(0, len(found) - columns) : len(found)]:
            axes.set_xlabel("target (bits)")
        figure.supylabel("ASR, accuracy (%)", fontsize=9)
        order = [*attacks, "random control", "clean accuracy"]
        shown = [text for text in order if text in handles]
        figure.legend(
            [handles[text] for text in shown],
            shown,
            loc="outside lower center",
            ncols=min(3 if columns == 1 else 5, len(shown)),
            frameon=False,
        )
        return Plot(name, title, png(figure))


def _viewed(frame: pd.DataFrame, view: str) -> pd.DataFrame:
    if view == "white-box":
        return frame[frame["lineage"] == "same-network"]
    own = (frame["source_model"] == frame["model"]) & (frame["source_defense"] == frame["defense"])
    own &= frame["source_preprocessor"] == "none"
    return frame[own & (frame["source_bits"] == FLOAT_BITS) & (frame["source_quantization"] == FLOAT)]


def _panels(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    for _, rows in frame.groupby(list(_FAMILY), sort=True):
        for mode in sorted(set(rows["quantization"]) - {FLOAT}) or [FLOAT]:
            chosen = rows[rows["quantization"].isin([mode, FLOAT])]
            yield chosen.assign(panel=mode)


def _line_names(rows: pd.DataFrame) -> list[str]:
    return [f"{attack} ({seen})" if seen else attack for attack, seen in zip(rows["attack"], rows["seen"], strict=True)]


def _panel(axes: Axes, rows: pd.DataFrame, attacks: Sequence[str]) -> None:
    bits = sorted(set(rows["target_bits"]), key=bits_order)
    named = rows.assign(line=_line_names(rows), place=[bits.index(value) for value in rows["target_bits"]])
    background = named.drop_duplicates("place").sort_values("place")
    axes.plot(background["place"], background["clean_accuracy"], color="#b0b0b0", lw=1.2, label="clean accuracy")
    axes.plot(
        background["place"], background["asr_control"], color=GREY, ls="--", lw=1.3, marker=".", label="random control"
    )
    present = [attack for attack in attacks if attack in set(named["line"])]
    for number, attack in enumerate(present):
        own = named[(named["line"] == attack) & named["asr"].notna()].sort_values("place")
        shift = 0.12 * (number - (len(present) - 1) / 2)  # beside each other, so that bars do not cover bars
        style = attacks.index(attack)
        axes.errorbar(
            own["place"] + shift,
            own["asr"],
            yerr=[(own["asr"] - own["asr_low"]).clip(lower=0), (own["asr_high"] - own["asr"]).clip(lower=0)],
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
    axes.set_title("\n".join(_title(rows)), fontsize=8)


def _title(rows: pd.DataFrame) -> tuple[str, str]:
    first = rows.iloc[0]
    before = "" if first["preprocessor"] == "none" else f" + {first['preprocessor']}"
    return shortened(first["model"], 36), shortened(f"{first['defense']}{before}, {first['panel']}", 36)


def _legend(axes: Axes) -> tuple[list[Any], list[str]]:
    handles, labels = axes.get_legend_handles_labels()
    return list(handles), [str(label) for label in labels]
