"""Standings against an earlier board: what got worse beyond chance, and what is gone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from qpatchbench.report.standings.experiments import read_experiments
from qpatchbench.report.standings.rate import p_of_difference
from qpatchbench.report.standings.standing import Standing, standings
from qpatchbench.report.standings.standing_json import read_standings
from qpatchbench.report.standings.threats import ACCURACIES, RANKED, THREATS
from qpatchbench.statistics.holm import holm

LEVEL = 0.05
_KEY = ("dataset", "model", "defense", "preprocessor", "quantization", "bits", "size")


class Worsening(NamedTuple):
    """One rate that is worse than in the baseline; `p` is corrected, NaN where the rate is gone."""

    label: str
    threat: str
    before: float
    now: float
    p: float

    def __str__(self) -> str:
        title = THREATS[self.threat].title
        if math.isnan(self.p):
            return f"{self.label}, {title}: {self.before:.1f} % in the baseline, no longer measured"
        return f"{self.label}, {title}: {self.before:.1f} % in the baseline, {self.now:.1f} % now (p = {self.p:.2g})"


class BaselineComparison(NamedTuple):
    """How many rates were compared, and those that are worse."""

    compared: int
    worse: tuple[Worsening, ...]


def read_baseline(path: Path, size: str = "") -> tuple[Standing, ...]:
    """Of a run folder, or of a JSON file that `qpatchbench leaderboard --format json` wrote."""
    return read_standings(path) if path.is_file() else standings(read_experiments([path]), size)


def worse_than(baseline: Sequence[Standing], now: Sequence[Standing]) -> BaselineComparison:
    """Rates of the baseline that are significantly worse now, after Holm's correction for all, or no longer there.

    A rate that is a lower bound on one side only is not compared.
    """
    known = {_key(each): each for each in now}
    gone: list[Worsening] = []
    changed: list[Worsening] = []
    for before in baseline:
        each = known.get(_key(before))
        for threat in RANKED:
            old = before.rates.get(threat)
            if old is None or math.isnan(old.value):
                continue
            new = each.rates.get(threat) if each is not None else None
            if new is None or math.isnan(new.value):
                gone.append(Worsening(before.label, threat, old.value, math.nan, math.nan))
            elif new.at_least == old.at_least:
                p, _ = p_of_difference(old, new)
                changed.append(Worsening(before.label, threat, old.value, new.value, p))
    adjusted = holm([each.p for each in changed])
    found = [each._replace(p=p) for each, p in zip(changed, adjusted, strict=True) if p < LEVEL and _is_worse(each)]
    return BaselineComparison(len(changed), (*found, *gone))


def _is_worse(each: Worsening) -> bool:
    return each.now < each.before if each.threat in ACCURACIES else each.now > each.before


def _key(each: Standing) -> tuple[str, ...]:
    return tuple(getattr(each, name) for name in _KEY)
