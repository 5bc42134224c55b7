"""Choice of the row that a person means: by its number, or by what it must agree in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from qpatchbench.errors import QPatchBenchError, suggestion
from qpatchbench.report.leaderboard.keys import ROW_KEY
from qpatchbench.report.leaderboard.row import COLUMNS, OPTIONAL, Row

_NAMES = ("size", "base")  # of a row, beside its columns
MOST = 8  # rows that a message names


class ChosenRow(NamedTuple):
    """A row and its number, from 1, in leaderboard.csv."""

    number: int
    row: Row


def choose_row(rows: Sequence[Row], wanted: Sequence[str]) -> ChosenRow:
    """The one row that `wanted` names: one number, or conditions column=value that all must hold.

    Raises:
        QPatchBenchError: no such row, or several.
    """
    if not rows:
        raise QPatchBenchError("expected a leaderboard with rows, found one without")
    if len(wanted) == 1 and "=" not in wanted[0]:
        return _numbered(rows, wanted[0])
    found = [ChosenRow(number, row) for number, row in enumerate(rows, 1)]
    for condition in wanted:
        column, sign, value = condition.partition("=")
        if not sign:
            raise QPatchBenchError(f"expected column=value, for example target_bits=4, found {condition!r}")
        if column not in (known := (*COLUMNS, *OPTIONAL, *_NAMES)):
            raise QPatchBenchError(f"{condition}: no column {column!r}.{suggestion(column, known)}")
        kept = [each for each in found if each.row.text(column) == value]
        if not kept:
            values = {each.row.text(column) or "''" for each in found}
            raise QPatchBenchError(f"{condition}: no row left with {column} {value!r}.{suggestion(value, values)}")
        found = kept
    if len(found) > 1:
        raise QPatchBenchError(f"expected one row, found {len(found)}: {_told(found)}. {_hint(found)}")
    return found[0]


def _numbered(rows: Sequence[Row], text: str) -> ChosenRow:
    if not text.isdigit() or not 1 <= int(text) <= len(rows):
        raise QPatchBenchError(f"expected a row in 1..{len(rows)}, or conditions such as target_bits=4, found {text!r}")
    return ChosenRow(int(text), rows[int(text) - 1])


def _told(found: Sequence[ChosenRow]) -> str:
    more = [f"and {len(found) - MOST} more"] if len(found) > MOST else []
    return ", ".join([*(f"row {each.number}" for each in found[:MOST]), *more])


def _hint(found: Sequence[ChosenRow]) -> str:
    """The column that tells them apart best."""
    varied = [(column, dict.fromkeys(each.row.text(column) for each in found)) for column in ("size", *ROW_KEY)]
    column, values = max(varied, key=lambda pair: len(pair[1]))
    named = ", ".join(f"{column}={value}" for value in values)
    return f"They differ most in {column}: {named}" if len(values) > 1 else "They cannot be told apart by a condition"
