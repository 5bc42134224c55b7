"""Transfer heatmaps: where a patch was crafted against where it is evaluated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from qpatchbench.report.figures import Drawing
from qpatchbench.report.figures.drawing.points import finished_rows, modes_of
from qpatchbench.report.figures.drawing.style import MAP, REPORT_DPI, file_name, new_figure
from qpatchbench.report.leaderboard.keys import bits_order
from qpatchbench.report.leaderboard.published import RunFolder
from qpatchbench.report.leaderboard.row import FLOAT_MODE, SAME_NETWORK, Row, behind

_Network: TypeAlias = tuple[str, str, str, str, str, str]


class Heatmap(NamedTuple):
    """Rows of one picture: a mode of quantization, together with the float network that belongs to it."""

    mode: str
    rows: Sequence[Row]


def transfer(folders: Sequence[RunFolder]) -> Iterator[Drawing]:
    """One drawing per dataset, model, defense, preprocessor, mode of quantization, attack and size."""
    return map(heatmap, heatmaps([row for row in finished_rows(folders) if not row.transformation]))


def heatmaps(rows: Sequence[Row]) -> Iterator[Heatmap]:
    """All pictures; controls are crafted nowhere and are in none."""
    groups: dict[tuple[str | int, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row.source_model:
            names = (row.dataset, row.model, row.defense, row.preprocessor, row.attack)
            groups[*names, row.patch_height, row.patch_width].append(row)
    for key in sorted(groups):
        for mode in modes_of(groups[key]):
            yield Heatmap(mode, [row for row in groups[key] if _belongs(row, mode)])


def _belongs(row: Row, mode: str) -> bool:
    return row.quantization == mode or (
        row.quantization == FLOAT_MODE and row.source_quantization in (mode, FLOAT_MODE)
    )


def heatmap(found: Heatmap) -> Drawing:
    """ASR by source and target bits on a scale of 0 to 100 that all heatmaps share."""
    first = found.rows[0]
    sources = sorted({_source(row) for row in found.rows}, key=_source_order)
    targets = sorted({row.target_bits for row in found.rows}, key=bits_order)
    values = np.full((len(sources), len(targets)), np.nan)
    marked, own = [], []
    for row in found.rows:
        place = sources.index(_source(row)), targets.index(row.target_bits)
        values[place] = row.number("asr")
        if row.failed_checks:
            marked.append(place)
        if row.lineage == SAME_NETWORK:
            own.append(place)
    labels = _labels(sources, found.mode)
    title = (f"{first.model}, {first.defended}, {found.mode}", f"{first.attack} {first.size} on {first.dataset}")
    reach = 0.075 * max(len(label) for label in labels)
    figure = new_figure(max(3.9, 2.1 + reach + 0.62 * len(targets)), 1.55 + 0.4 * len(sources), REPORT_DPI)
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
    parts = (first.dataset, first.model, first.defense, first.preprocessor, found.mode, first.attack, first.size)
    return Drawing(file_name("transfer", *parts), figure, ", ".join(title))


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


def _source(row: Row) -> _Network:
    names = (row.source_model, row.source_defense, row.source_quantization)
    return (*names, row.source_bits, row.source_preprocessor, row.seen)


def _labels(sources: Sequence[_Network], mode: str) -> list[str]:
    """As short as they can be: only what differs between the sources, or is not of the panel's own mode."""
    several = [len({source[place] for source in sources}) > 1 for place in (0, 1)]
    foreign = any(source[2] not in (mode, FLOAT_MODE) for source in sources)
    labels = []
    for model, defense, quantization, bits, before, seen in sources:
        names = [name for name, shown in zip((model, defense), several, strict=True) if shown]
        told = f"{quantization}@{bits}" if foreign else f"@{bits}" if names else bits
        labels.append(" ".join([*names, told]) + behind(before) + (f" ({seen})" if seen else ""))
    return labels


def _source_order(source: _Network) -> tuple[object, ...]:
    model, defense, quantization, bits, before, seen = source
    return model, defense, before != "none", bits_order(bits), quantization, before, seen
