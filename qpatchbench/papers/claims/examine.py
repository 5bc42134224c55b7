"""Claims of the papers, tested on what runs measured."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from qpatchbench.papers.claims.hypotheses import Claim, Hypothesis
from qpatchbench.papers.claims.sampler import estimate
from qpatchbench.papers.claims.select import ClaimSource, Stand, departures, group_of, stands
from qpatchbench.papers.matching import Missing, Record
from qpatchbench.statistics.estimates import Estimate, Statistic, compare, mean, widened

ClaimVerdict: TypeAlias = Literal["holds", "does not hold", "cannot tell", "not measured"]
UNITS = {"level": "%", "difference": "points", "ratio": "times"}
VERDICTS: tuple[tuple[ClaimVerdict, str], ...] = (
    ("holds", "the whole 95 % interval lies on the claimed side of the threshold"),
    ("does not hold", "the whole interval lies on the other side"),
    ("cannot tell", "the interval covers the threshold, the protocol is not the paper's or a check failed (then "
     "`points` says what the interval alone would), or runs cannot test it"),
    ("not measured", "no row, or no row to compare it with; the reason names what is missing"),
)  # fmt: skip
_SIGN = {"above": 1, "below": -1}


@dataclass(frozen=True)
class RowGroup:
    """An effect in one group of rows.

    Attributes:
        name: values of the facets that make it.
        effect: with the interval that holds together with those of all other groups.
        rows, baseline: means of the quantity on both sides; no baseline for a level.
        n_rows: rows behind it, on both sides.
        paired: whether the two sides were compared on the same resampled images.
    """

    name: tuple[str, ...]
    effect: Estimate
    rows: float
    baseline: float | None
    n_rows: int
    paired: bool


@dataclass(frozen=True)
class Finding:
    """A claim with its verdict.

    Attributes:
        groups: in the order of their names; none where nothing was measured.
        decisive: the group that decides: the worst where every group has to agree, the best where some has to.
        verdict, reason: the reason is "" where the interval alone decides.
        points: what the interval alone says, where the protocol is not the paper's; "" elsewhere.
        method: how intervals were made.
        here: what was measured, in words.
        runs: folders that rows are from.
    """

    claim: Claim
    verdict: ClaimVerdict
    reason: str
    groups: tuple[RowGroup, ...] = ()
    decisive: RowGroup | None = None
    points: str = ""
    method: str = ""
    here: str = "nothing was measured"
    runs: tuple[str, ...] = ()


def examine(claim: Claim, sources: Sequence[ClaimSource]) -> Finding:
    """Test a claim on all rows of all runs that it is about."""
    hypothesis = claim.hypothesis
    if hypothesis is None:
        return Finding(claim, "cannot tell", f"needs {claim.needs}")
    answers = [(source, stands(hypothesis, source)) for source in sources]
    found = [stand for _, answer in answers if not isinstance(answer, Missing) for stand in answer]
    if not found:
        return Finding(claim, "not measured", _missing(answers))
    groups = _groups(hypothesis, found)
    alone = _alone(hypothesis, groups)
    decisive = _decisive(hypothesis, groups)
    told = departures(claim, found)
    wide = _covers(hypothesis, decisive) if alone == "cannot tell" else ""
    return Finding(
        claim,
        "cannot tell" if told else alone,
        "; ".join([*told, *filter(None, [wide])]),
        tuple(groups),
        decisive,
        _points(hypothesis, decisive, alone) if told or alone == "cannot tell" else "",
        _method(hypothesis, groups),
        _here(hypothesis, groups, decisive),
        tuple(dict.fromkeys(stand.source.folder.name for stand in found)),
    )


def _missing(answers: Sequence[tuple[ClaimSource, list[Stand] | Missing]]) -> str:
    missing = [(answer, source.folder.name) for source, answer in answers if isinstance(answer, Missing)]
    nearest, name = max(missing, key=lambda each: each[0].depth)
    return nearest.reason if len(missing) == 1 else f"{name}: {nearest.reason}"


def _groups(hypothesis: Hypothesis, found: Sequence[Stand]) -> list[RowGroup]:
    """Every group's effect is the mean over its comparisons, and its interval is widened for their number."""
    by_name: dict[tuple[str, ...], list[Stand]] = defaultdict(list)
    for stand in found:
        by_name[group_of(stand.rows[0], hypothesis.each)].append(stand)
    return [_group(hypothesis, name, by_name[name], len(by_name)) for name in sorted(by_name)]


def _group(hypothesis: Hypothesis, name: tuple[str, ...], found: Sequence[Stand], count: int) -> RowGroup:
    ours = [_mean_of(hypothesis, stand.source, stand.rows) for stand in found]
    theirs = [_mean_of(hypothesis, stand.source, stand.baseline) for stand in found if stand.baseline]
    if theirs:
        effects = [compare(one, other, hypothesis.statistic) for one, other in zip(ours, theirs, strict=True)]
    else:
        effects = ours
    effect = mean(effects)
    return RowGroup(
        name,
        widened(effect, count, hypothesis.statistic),
        mean(ours).value,
        mean(theirs).value if theirs else None,
        sum(len(stand.rows) + len(stand.baseline) for stand in found),
        all(each.replicates is not None for each in effects),
    )


def _mean_of(hypothesis: Hypothesis, source: ClaimSource, rows: Sequence[Record]) -> Estimate:
    return mean([estimate(row, hypothesis.quantity, source.sampler) for row in rows])


def _margins(hypothesis: Hypothesis, effect: Estimate) -> tuple[float, float, float]:
    """How far the value, the worse and the better bound lie on the claimed side."""
    sign = _SIGN[hypothesis.direction]
    ends = sorted(sign * (bound - hypothesis.threshold) for bound in (effect.low, effect.high))
    return sign * (effect.value - hypothesis.threshold), ends[0], ends[1]


def _status(hypothesis: Hypothesis, group: RowGroup) -> int:
    """1 where the whole interval is on the claimed side, -1 where it is on the other, 0 where it covers."""
    _, worse, better = _margins(hypothesis, group.effect)
    return 1 if worse > 0 else -1 if better < 0 else 0


def _alone(hypothesis: Hypothesis, groups: Sequence[RowGroup]) -> ClaimVerdict:
    found = [_status(hypothesis, group) for group in groups]
    best = min(found) if hypothesis.quantifier == "every" else max(found)
    verdicts: dict[int, ClaimVerdict] = {1: "holds", 0: "cannot tell", -1: "does not hold"}
    return verdicts[best]


def _decisive(hypothesis: Hypothesis, groups: Sequence[RowGroup]) -> RowGroup:
    choose = min if hypothesis.quantifier == "every" else max
    return choose(groups, key=lambda group: (_status(hypothesis, group), _margins(hypothesis, group.effect)[0]))


def _covers(hypothesis: Hypothesis, group: RowGroup) -> str:
    low, high = group.effect.low, group.effect.high
    if math.isnan(low) or math.isnan(high):
        return "no interval was measured"
    return f"the interval covers {hypothesis.threshold:g}"


def _points(hypothesis: Hypothesis, group: RowGroup, alone: ClaimVerdict) -> str:
    if alone != "cannot tell":
        return alone
    return "towards it" if _margins(hypothesis, group.effect)[0] > 0 else "against it"


def _method(hypothesis: Hypothesis, groups: Sequence[RowGroup]) -> str:
    if hypothesis.quantity == "relative_time":
        kind = "quartiles of the timed rounds, side by side with the reference"
    elif hypothesis.statistic == "level":
        kind = "intervals of the leaderboard"
    elif all(group.paired for group in groups):
        kind = "paired bootstrap on the same images"
    elif any(group.paired for group in groups):
        kind = "paired bootstrap where single outcomes are at hand, else from counts as if independent"
    else:
        kind = "from counts, as if independent"
    return kind + (f"; {len(groups)} intervals that hold together" if len(groups) > 1 else "")


def effect_text(effect: Estimate, statistic: Statistic) -> str:
    """The effect with its interval, in its unit."""
    value, low, high = (f"{number:.{_digits(statistic)}f}" for number in (effect.value, effect.low, effect.high))
    interval = ", no interval" if math.isnan(effect.low) else f" [{low}, {high}]"
    return f"{value} {UNITS[statistic]}{interval}"


def _digits(statistic: Statistic) -> int:
    return 2 if statistic == "ratio" else 1


def _here(hypothesis: Hypothesis, groups: Sequence[RowGroup], decisive: RowGroup) -> str:
    quantity, digits = str(hypothesis.quantity), _digits(hypothesis.statistic)
    if decisive.baseline is None:
        sides = quantity
    elif quantity == "relative_time":
        sides = f"{quantity} {decisive.rows:.3g} against {decisive.baseline:.3g}"
    else:
        sides = f"{quantity} {decisive.rows:.1f} % against {decisive.baseline:.1f} %"
    places = ", ".join(f"{facet} {text or 'none'}" for facet, text in zip(hypothesis.each, decisive.name, strict=True))
    text = f"{places}: {sides}, {effect_text(decisive.effect, hypothesis.statistic)}"
    if len(groups) == 1:
        return text
    values = [group.effect.value for group in groups]
    counts = [sum(_status(hypothesis, group) == status for group in groups) for status in (1, -1)]
    which = "the worst" if hypothesis.quantifier == "every" else "the best"
    return (
        f"{text}, {which} of {len(groups)} groups, which go from {min(values):.{digits}f} to "
        f"{max(values):.{digits}f}; {counts[0]} as claimed and {counts[1]} not, intervals apart"
    )
