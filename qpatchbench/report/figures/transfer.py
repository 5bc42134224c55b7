"""Transfer heatmaps: where a patch was crafted against where it is evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from qpatchbench.report.figures.drawing import MAP, Plot, file_name, fixed_settings, new_figure, png
from qpatchbench.report.leaderboard.keys import bits_order

FLOAT = "fp"
_PANEL = ("dataset", "model", "defense", "preprocessor", "quantization", "attack", "patch_height", "patch_width")
_SOURCE = ("source_model", "source_defense", "source_quantization", "source_bits", "source_preprocessor", "seen")


def panels(frame: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Rows of each quantization mode, together with the float network that belongs to it."""
    crafted = frame[frame["source_model"] != ""]
    family = [name for name in _PANEL if name != "quantization"]
    for _, rows in crafted.groupby(family, sort=True):
        modes = sorted(set(rows["quantization"]) - {FLOAT}) or [FLOAT]
        for mode in modes:
            own = rows["quantization"] == mode
            floats = (rows["quantization"] == FLOAT) & rows["source_quantization"].isin([mode, FLOAT])
            facts = {**{name: rows[name].iloc[0] for name in family}, "quantization": mode}
            yield facts, rows[own | floats]


def heatmap(facts: dict[str, Any], rows: pd.DataFrame) -> Plot:
    """ASR by source and target bits on a scale of 0 to 100 that all heatmaps share."""
    sources = sorted({tuple(row) for row in rows[list(_SOURCE)].itertuples(index=False)}, key=_source_order)
    targets = sorted(set(rows["target_bits"]), key=bits_order)
    values = np.full((len(sources), len(targets)), np.nan)
    marked, own = [], []
    for row in rows.to_dict("records"):
        place = sources.index(tuple(row[name] for name in _SOURCE)), targets.index(row["target_bits"])
        values[place] = row["asr"]
        if "fail" in row["checks"]:
            marked.append(place)
        if row["lineage"] == "same-network":
            own.append(place)
    labels = _labels(sources, facts["quantization"])
    title = _title(facts)
    with fixed_settings():
        reach = 0.075 * max(len(label) for label in labels)
        figure = new_figure(max(3.9, 2.1 + reach + 0.62 * len(targets)), 1.55 + 0.4 * len(sources))
        axes = figure.add_subplot()
        image = _draw(axes, values, marked, own)
        axes.set_xticks(range(len(targets)), targets)
        axes.set_yticks(range(len(sources)), labels)
        axes.set_xlabel("target (bits)")
        axes.set_ylabel("source (bits)")
        axes.set_title("\n".join(title), loc="left")
        figure.colorbar(image, ax=axes, label="ASR (%)", fraction=0.06, pad=0.03, ticks=[0, 50, 100])
        note = ["frame: white box"] * bool(own) + ["*: a check failed"] * bool(marked)
        note += ["hatched: not measured"] * bool(np.isnan(values).any())
        figure.supxlabel("   ".join(note), fontsize=7)
        drawn = png(figure)
    return Plot(file_name("transfer", *(facts[name] for name in _PANEL[:6]), _size(facts)), ", ".join(title), drawn)


def _draw(
    axes: Axes, values: np.ndarray[Any, Any], marked: Sequence[tuple[int, int]], own: Sequence[tuple[int, int]]
) -> Any:  # noqa: ANN401 (matplotlib's AxesImage)
    image = axes.imshow(values, vmin=0, vmax=100, cmap=MAP, aspect="auto")
    colours = mpl.colormaps[MAP]
    for (row, column), value in np.ndenumerate(values):
        corner = (column - 0.5, row - 0.5)
        if np.isnan(value):
            axes.add_patch(Rectangle(corner, 1, 1, facecolor="#f2f2f2", edgecolor="#b0b0b0", hatch="////", lw=0))
            continue
        red, green, blue, _ = colours(value / 100)
        light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
        text = f"{value:.1f}{'*' if (row, column) in marked else ''}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color="black" if light else "white")
    for row, column in own:
        axes.add_patch(Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, fill=False, edgecolor="#d55e00", lw=1.8))
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0)
    return image


def _labels(sources: Sequence[tuple[str, ...]], mode: str) -> list[str]:
    """As short as they can be: only what differs between the sources, or is not of the panel's own mode."""
    several = [len({source[place] for source in sources}) > 1 for place in (0, 1)]
    foreign = any(source[2] not in (mode, FLOAT) for source in sources)
    labels = []
    for model, defense, quantization, bits, before, seen in sources:
        names = [name for name, shown in zip((model, defense), several, strict=True) if shown]
        width = f"{quantization}@{bits}" if foreign else f"@{bits}" if names else bits
        behind = [f"+ {before}"] if before != "none" else []
        labels.append(" ".join([*names, width, *behind, *([f"({seen})"] if seen else [])]))
    return labels


def _source_order(source: tuple[str, ...]) -> tuple[object, ...]:
    model, defense, quantization, bits, before, seen = source
    return model, defense, before != "none", bits_order(bits), quantization, before, seen


def _size(facts: dict[str, Any]) -> str:
    return f"{facts['patch_height']}x{facts['patch_width']}"


def _title(facts: dict[str, Any]) -> tuple[str, str]:
    before = "" if facts["preprocessor"] == "none" else f" + {facts['preprocessor']}"
    return (
        f"{facts['model']}, {facts['defense']}{before}, {facts['quantization']}",
        f"{facts['attack']} {_size(facts)} on {facts['dataset']}",
    )
