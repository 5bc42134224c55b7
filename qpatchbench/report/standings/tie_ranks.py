"""Ranks by paired tests of every pair, corrected by Holm's method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from qpatchbench.report.standings.rate import ThreatRate, p_of_difference
from qpatchbench.statistics.holm import holm

LEVEL = 0.05


class Ranking(NamedTuple):
    """Ranks by position of the rate, 1 for the best, and whether every test was paired."""

    ranks: Mapping[int, int]
    paired: bool


def rank_rates(rates: Sequence[ThreatRate | None], *, higher_is_better: bool) -> Ranking:
    """Ranks as in sport, 1, 2, 2, 4.

    Going from the best to the worst, a rate shares the rank of the first of the current tie while the two do not differ
    at 5 % after Holm's correction for all pairs. What is missing, a lower bound or failed a check has no rank.
    """
    taking_part = [
        place
        for place, rate in enumerate(rates)
        if rate is not None and not (rate.failed or rate.at_least or math.isnan(rate.value))
    ]
    known = {place: rate for place, rate in enumerate(rates) if rate is not None and place in taking_part}
    pairs = list(combinations(taking_part, 2))
    found = [p_of_difference(known[a], known[b]) for a, b in pairs]
    adjusted = dict(zip(map(frozenset, pairs), holm([p for p, _ in found]), strict=True))
    sign = -1 if higher_is_better else 1
    ranks: dict[int, int] = {}
    leader = -1
    for number, place in enumerate(sorted(known, key=lambda each: (sign * known[each].value, each)), start=1):
        if leader < 0 or adjusted[frozenset((leader, place))] < LEVEL:
            leader, rank = place, number
        ranks[place] = rank
    return Ranking(ranks, all(paired for _, paired in found))
