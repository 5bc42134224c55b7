"""Rows of a leaderboard as figures read them: numbers instead of text, and the networks that belong together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from qpatchbench.report.leaderboard.keys import ROW_KEY
from qpatchbench.report.leaderboard.published import Row, RunFolder
from qpatchbench.statistics.intervals import wilson

FLOAT = "fp"
SAME_NETWORK = "same-network"


class Point(NamedTuple):
    """One number of a line.

    Attributes:
        x, y: where it is drawn.
        low, high: its 95 % interval; NaN where there is none.
    """

    x: float
    y: float
    low: float
    high: float


class Family(NamedTuple):
    """Networks of one picture: the bit-widths of one mode of quantization, beside the float network."""

    dataset: str
    model: str
    defense: str
    preprocessor: str
    quantization: str

    @property
    def parts(self) -> tuple[str, ...]:
        """For a file name."""
        return tuple("" if name == "preprocessor" and part == "none" else part for name, part in self._asdict().items())

    @property
    def title(self) -> str:
        """As a figure states it."""
        before = "" if self.preprocessor == "none" else f" + {self.preprocessor}"
        mode = "" if self.quantization == FLOAT else f", {self.quantization}"
        return f"{self.model}, defense {self.defense}{before}{mode} on {self.dataset}"


def finished_rows(folders: Iterable[RunFolder]) -> list[Row]:
    """Rows that have a result; the first folder that has a row wins."""
    found: dict[tuple[str, ...], Row] = {}
    for folder in folders:
        for row in folder.rows:
            if row["asr"] or row["clean_accuracy"]:
                found.setdefault(tuple(row.get(name, "") for name in ROW_KEY), row)
    return [*found.values()]


def families(rows: Sequence[Row]) -> Iterator[tuple[Family, list[Row]]]:
    """Every family with its rows; a float network belongs to every mode of its model and defense."""
    for dataset, model, defense, preprocessor in sorted({_owner(row) for row in rows}):
        own = [row for row in rows if _owner(row) == (dataset, model, defense, preprocessor)]
        for mode in sorted({row["quantization"] for row in own} - {FLOAT}) or [FLOAT]:
            chosen = [row for row in own if row["quantization"] in (mode, FLOAT)]
            yield Family(dataset, model, defense, preprocessor, mode), chosen


def number(row: Row, name: str) -> float:
    """A column as a number; NaN where it is empty or missing."""
    return float(row.get(name) or math.nan)


def rate(row: Row, name: str, x: float) -> Point:
    """A rate with its interval, in percent.

    A leaderboard has no interval for accuracies. Wilson's, over the images of one seed, is wide enough where seeds
    agree, and knows nothing of other seeds; tables and claims use the same.
    """
    value = number(row, name)
    if f"{name}_low" in row:
        return Point(x, value, number(row, f"{name}_low"), number(row, f"{name}_high"))
    if math.isnan(value):
        return Point(x, value, math.nan, math.nan)
    images = int(row["n_images"])
    low, high = wilson(round(value / 100 * images), images)
    return Point(x, value, 100 * low, 100 * high)


def bits_label(bits: str) -> str:
    """What a legend calls a bit-width.

    >>> bits_label("4"), bits_label("w4a8")
    ('4-bit', 'w4a8')
    """
    return f"{bits}-bit" if bits.isdigit() else bits


def _owner(row: Row) -> tuple[str, str, str, str]:
    return row["dataset"], row["model"], row["defense"], row["preprocessor"]
