"""Figures without global state: fixed settings, fixed fonts, PNG bytes that depend on the data alone."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with any colour vision. Markers differ as well.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#767676"
# Perceptually uniform, and made for colour-blind readers (Nunez et al., 2018, doi:10.1371/journal.pone.0199239).
MAP = "cividis"

_SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # a class name may contain a dollar sign
    "svg.hashsalt": "qpatchbench",
}
_KEPT = {"backend", "backend_fallback", "interactive", "toolbar", "webagg.port", "date.epoch"}


@dataclass(frozen=True)
class Plot:
    """One picture.

    Attributes:
        name: file name without ending; letters, digits, dot, dash and underscore only.
        title: what it shows.
        png: the file.
    """

    name: str
    title: str
    png: bytes


@contextlib.contextmanager
def fixed_settings() -> Iterator[None]:
    """Draw with our settings whatever the user's matplotlibrc says."""
    settings: dict[Any, Any] = {name: value for name, value in mpl.rcParamsDefault.items() if name not in _KEPT}
    with mpl.rc_context(settings | _SETTINGS):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; size in inches, at 110 dots per inch."""
    return Figure(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")


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


def shortened(text: str, most: int) -> str:
    """Text of at most `most` characters.

    >>> shortened("great white shark", 10)
    'great whi…'
    """
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"
