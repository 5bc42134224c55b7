"""Rows of a leaderboard as figures read them: points with intervals, and the networks that belong together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from qpatchbench.report.leaderboard.published import RunFolder
from qpatchbench.report.leaderboard.row import FLOAT_MODE, Row, behind


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
        mode = "" if self.quantization == FLOAT_MODE else f", {self.quantization}"
        return f"{self.model}, defense {self.defense}{behind(self.preprocessor)}{mode} on {self.dataset}"


def finished_rows(folders: Iterable[RunFolder]) -> list[Row]:
    """Rows that have a result; the first folder that has a row wins."""
    found: dict[tuple[str | int, ...], Row] = {}
    for folder in folders:
        for row in folder.rows:
            if row.measured("asr") or row.measured("clean_accuracy"):
                found.setdefault(row.key, row)
    return [*found.values()]


def families(rows: Sequence[Row]) -> Iterator[tuple[Family, list[Row]]]:
    """Every family with its rows; a float network belongs to every mode of its model and defense."""
    for dataset, model, defense, preprocessor in sorted({_owner(row) for row in rows}):
        own = [row for row in rows if _owner(row) == (dataset, model, defense, preprocessor)]
        for mode in modes_of(own):
            chosen = [row for row in own if row.quantization in (mode, FLOAT_MODE)]
            yield Family(dataset, model, defense, preprocessor, mode), chosen


def modes_of(rows: Iterable[Row]) -> list[str]:
    """Modes of quantization; float where there is no other."""
    return sorted({row.quantization for row in rows} - {FLOAT_MODE}) or [FLOAT_MODE]


def rate(row: Row, name: str, x: float) -> Point:
    """A rate with its interval, in percent."""
    return Point(x, row.number(name), *row.interval(name))


def bits_label(bits: str) -> str:
    """What a legend calls a bit-width.

    >>> bits_label("4"), bits_label("w4a8")
    ('4-bit', 'w4a8')
    """
    return f"{bits}-bit" if bits.isdigit() else bits


def _owner(row: Row) -> tuple[str, str, str, str]:
    return row.dataset, row.model, row.defense, row.preprocessor
