"""Verdicts on published numbers, and on the order they stand in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Literal, NamedTuple, TypeAlias

from qpatchbench.papers.matching import Measured, Missing

CellVerdict: TypeAlias = Literal["holds", "ordering holds", "does not hold", "cannot tell", "not measured"]
Ordering: TypeAlias = Literal["as published", "not as published", "not separable", ""]

MARKS: dict[CellVerdict, str] = {
    "holds": "=",
    "ordering holds": "~",
    "does not hold": "x",
    "cannot tell": "?",
    "not measured": "-",
}
WIDEST_POINTS = 10.0  # of a rate in percent
WIDEST_SHARE = 0.2  # of any other published number

DEFINITIONS: tuple[tuple[str, str], ...] = (
    ("=", "holds: the published number lies in the measured 95 % interval"),
    ("~", "ordering holds: it does not, but the row or the column is ordered as published, its intervals apart"),
    ("x", "does not hold: it does not, and neither order can be confirmed"),
    ("?", f"cannot tell: the protocol differs, a validity check failed, or the interval is too wide to confirm it "
     f"(more than {WIDEST_POINTS:g} points of a rate, or {100 * WIDEST_SHARE:g} % of another number)"),
    ("-", "not measured"),
)  # fmt: skip


class Comparison(NamedTuple):
    """A published number and what was found for it; both in the published unit."""

    published: float
    found: Measured | Missing


def ordering(cells: Sequence[Comparison]) -> Ordering:
    """Whether measured cells are ordered as published.

    Every pair that is published as different has to differ in that direction, intervals apart. One pair that differs
    in the other direction makes the order another one; anything else cannot be separated.

    Returns:
        "" where fewer than two cells were measured, or all are published as equal.
    """
    known = [(cell.published, cell.found) for cell in cells if isinstance(cell.found, Measured)]
    agreed, pairs = 0, 0
    for (first, one), (second, other) in combinations(known, 2):
        if first == second:
            continue
        pairs += 1
        (lower, upper) = (one, other) if first < second else (other, one)
        if upper.high < lower.low:
            return "not as published"
        agreed += upper.low > lower.high
    if not pairs:
        return ""
    return "as published" if agreed == pairs else "not separable"


def verdict(cell: Comparison, row: Ordering, column: Ordering, *, is_rate: bool) -> tuple[CellVerdict, str]:
    """CellVerdict on one cell, and its reason.

    A number that was measured under another protocol is neither confirmed nor refuted by it, and no more is its order:
    `ordering` is told beside the verdict instead.
    """
    found = cell.found
    if isinstance(found, Missing):
        return "not measured", found.reason
    if found.departures:
        return "cannot tell", "; ".join(found.departures)
    if math.isnan(found.low) or math.isnan(found.high):
        return "cannot tell", "no interval was measured"
    width, widest = found.high - found.low, WIDEST_POINTS if is_rate else WIDEST_SHARE * abs(cell.published)
    if found.low <= cell.published <= found.high:
        if width > widest:
            return "cannot tell", f"interval too wide: {width:.3g}, more than {widest:.3g}"
        return "holds", f"within [{found.low:.4g}, {found.high:.4g}]"
    confirmed = [name for name, order in (("row", row), ("column", column)) if order == "as published"]
    if confirmed:
        return "ordering holds", f"{' and '.join(confirmed)} as published"
    return "does not hold", f"outside [{found.low:.4g}, {found.high:.4g}]"
