"""Ranks that the data can separate: rows whose paired difference contains 0 share one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from qpatchbench.statistics.intervals import Array, percentile_interval


class Contestant(NamedTuple):
    """A row that takes part: its rate and (R,) replicates, drawn on the same resamples as everybody's."""

    row: int
    rate: float
    replicates: Array


def ranks(contestants: Sequence[Contestant]) -> dict[int, int]:
    """Rank of every row, 1 for the lowest rate.

    Ties are counted as in sport, 1, 2, 2, 4: going up in rate, a row shares the rank of the first row of the current
    tie while the 95 % interval of its difference to that one contains 0. Comparing with the first, not with the
    neighbour, keeps a chain of small steps from joining rows that are far apart.
    """
    ordered = sorted(contestants, key=lambda each: (each.rate, each.row))
    given: dict[int, int] = {}
    leader: Contestant | None = None
    for place, each in enumerate(ordered, start=1):
        if leader is None or separable(leader.replicates, each.replicates):
            leader, rank = each, place
        given[each.row] = rank
    return given


def separable(first: Array, second: Array) -> bool:
    """Whether the 95 % interval of the paired difference excludes 0; both (R,) replicates."""
    low, high = percentile_interval(second - first)
    return low > 0 or high < 0
