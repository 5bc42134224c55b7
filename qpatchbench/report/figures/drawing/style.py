"""Style of figures: sizes, fonts, colours that colour-blind readers and grey printers tell apart, files.

Nothing is kept in global state, so that the bytes of a figure depend on its data alone.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from qpatchbench.report.figures.drawing.points import Point
from qpatchbench.report.leaderboard.keys import bits_order

# Okabe and Ito's palette: told apart with any colour vision. Markers differ as well.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#767676"
# Perceptually uniform, and made for colour-blind readers (Nunez et al., 2018, doi:10.1371/journal.pone.0199239).
MAP = "cividis"

ONE_COLUMN, TWO_COLUMNS = 3.4, 7.0  # inches, as conferences print them
DPI, REPORT_DPI = 300, 110
CHANCE = "#8c8c8c"
GRID = "#e4e4e4"
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))

_FIXED = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # a class name may contain a dollar sign
    "svg.hashsalt": "qpatchbench",
}
_KEPT = {"backend", "backend_fallback", "interactive", "toolbar", "webagg.port", "date.epoch"}
_PRINT: dict[Any, Any] = {
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.8,
    "figure.titlesize": 8,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "axes.grid.axis": "y",
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "pdf.fonttype": 42,  # TrueType, embedded: journals reject Type 3
    "savefig.dpi": DPI,
}


@dataclass(frozen=True)
class LineStyle:
    """How one line differs from the others, in colour and without it."""

    colour: str
    marker: str
    dashes: Any

    def keywords(self) -> dict[str, Any]:
        """For `Axes.plot` and `Axes.errorbar`."""
        return {"color": self.colour, "marker": self.marker, "ls": self.dashes}


@contextlib.contextmanager
def fixed_settings() -> Iterator[None]:
    """Draw with our settings whatever the user's matplotlibrc says."""
    settings: dict[Any, Any] = {name: value for name, value in mpl.rcParamsDefault.items() if name not in _KEPT}
    with mpl.rc_context(settings | _FIXED):
        yield


@contextlib.contextmanager
def publication_settings() -> Iterator[None]:
    """Draw for print whatever the user's matplotlibrc says."""
    with fixed_settings(), mpl.rc_context(_PRINT):
        yield


def new_figure(width: float, height: float, dpi: int = DPI) -> Figure:
    """An empty figure of width x height inches."""
    return Figure(figsize=(width, height), dpi=dpi, layout="constrained", facecolor="white")


def grid_of_panels(count: int, columns: int, *, width: float, height: float = 1.55) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels that share their y axis, `columns` beside each other; sizes in inches."""
    columns = min(columns, count)
    lines = -(-count // columns)
    wide = max(ONE_COLUMN, width * columns / 4) if columns < 4 else width
    figure = new_figure(wide, 0.95 + height * lines)
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for axes in list(grid.flat)[count:]:
        axes.set_visible(False)
    return figure, list(grid.flat)[:count]


def draw_line(axes: Axes, points: Sequence[Point], style: LineStyle, label: str, *, shift: float = 0.0) -> None:
    """A line through points with their intervals; points without a value are left out.

    Args:
        axes: where.
        points: in order.
        style: how.
        label: for the legend.
        shift: added to every x, so that intervals of several lines stand beside each other; see `beside`.
    """
    shown = [point for point in points if not math.isnan(point.y)]
    axes.errorbar(
        [point.x + shift for point in shown],
        [point.y for point in shown],
        # A bound that is missing has no bar; rounding must not turn one inside out.
        yerr=[
            [0.0 if math.isnan(point.low) else max(0.0, point.y - point.low) for point in shown],
            [0.0 if math.isnan(point.high) else max(0.0, point.high - point.y) for point in shown],
        ],
        label=label,
        elinewidth=0.7,
        capsize=1.5,
        capthick=0.7,
        **style.keywords(),
    )


def beside(count: int, places: Iterable[float]) -> list[float]:
    """Shifts of `count` lines about the places they share; together less than half of the smallest gap.

    >>> [round(shift, 3) for shift in beside(3, [0, 1, 2])]
    [-0.03, 0.0, 0.03]
    """
    known = sorted(set(places))
    if len(known) < 2:
        return [0.04 * (number - (count - 1) / 2) for number in range(count)]
    gap = min(second - first for first, second in itertools.pairwise(known))
    step = min(0.45 * gap / max(1, count), 0.015 * (known[-1] - known[0]))
    return [step * (number - (count - 1) / 2) for number in range(count)]


def percent_axis(axes: Axes, label: str, highest: float = 100) -> None:
    """A y axis from 0 % to at least `highest`; the label stands at the first column only."""
    top = next(top for top in (10, 20, 40, 60, 80, 100) if top >= min(highest, 100))
    axes.set_ylim(-0.02 * top, 1.02 * top)
    axes.set_yticks([top * quarter / 4 for quarter in range(5)])
    place = axes.get_subplotspec()
    if place is not None and place.is_first_col():
        axes.set_ylabel(label)


def legend_below(figure: Figure, panels: Iterable[Axes], labels: Sequence[str]) -> None:
    """One legend for all panels, below them, in the order of `labels`."""
    handles = {
        str(text): handle for axes in panels for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    shown = [text for text in labels if text in handles]
    widest = max(len(text) for text in shown)
    # A line of text holds about 20 characters per inch, of which the sample of the line takes 8.
    most = max(1, int(figure.get_figwidth() * 20 / (widest + 8)))
    rows = -(-len(shown) // most)
    figure.legend(
        [handles[text] for text in shown],
        shown,
        loc="outside lower center",
        ncols=-(-len(shown) // rows),
        borderpad=0.1,
    )


def bits_styles(bits: Sequence[str]) -> dict[str, LineStyle]:
    """Bit-widths in order, dark to light, so that the order survives a grey printer."""
    ordered = sorted(set(bits), key=bits_order)
    # The yellow end of viridis is invisible on white.
    shades = [0.78 * number / max(1, len(ordered) - 1) for number in range(len(ordered))]
    return {
        name: LineStyle(to_hex(colormaps["viridis"](shade)), MARKERS[n % len(MARKERS)], DASHES[n % len(DASHES)])
        for n, (name, shade) in enumerate(zip(ordered, shades, strict=True))
    }


def name_styles(names: Sequence[str]) -> dict[str, LineStyle]:
    """Names without an order, as they come: defenses, layers. Marker and dashes together differ for up to 35."""
    return {
        name: LineStyle(COLOURS[n % len(COLOURS)], MARKERS[n % len(MARKERS)], DASHES[n % len(DASHES)])
        for n, name in enumerate(dict.fromkeys(names))
    }


def printed(figure: Figure) -> dict[str, bytes]:
    """The figure as files, by ending: the same bytes for the same drawing.

    pdf: vectors with embedded TrueType fonts. png: 300 pixels per inch.
    """
    with publication_settings():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once; each file would do it again
        return {
            "pdf": _saved(figure, "pdf", {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None}),
            "png": _saved(figure, "png", {"Software": None}),
        }


def _saved(figure: Figure, form: str, metadata: dict[str, None]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, dpi=DPI, metadata=metadata)
    return buffer.getvalue()


def png(figure: Figure) -> bytes:
    """The figure as a file, without the version of the library that drew it."""
    buffer = io.BytesIO()
    # Straight to the canvas: `savefig` would draw everything twice, once only to lay it out.
    canvas: Any = FigureCanvasAgg(figure)  # matplotlib leaves print_png untyped
    canvas.print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def file_name(*parts: object) -> str:
    """Parts joined into a name that is safe on every file system.

    >>> file_name("transfer", "timm/deit tiny", "4")
    'transfer_timm-deit-tiny_4'
    """
    cleaned = (re.sub(r"[^A-Za-z0-9.-]+", "-", str(part)).strip("-.") for part in parts if str(part))
    return "_".join(part for part in cleaned if part)
