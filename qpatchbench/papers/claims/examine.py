"""Claims of the papers, tested on what runs measured: as published, and under the protocol of those runs.

As published, a claim is decided only by rows of its paper's own protocol. Under the protocol of the runs it is decided
by what was measured, with intervals that hold together for all claims (Holm 1979): see `decided`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from qpatchbench.papers.claims.hypotheses import Claim, Hypothesis
from qpatchbench.papers.claims.sampler import estimate
from qpatchbench.papers.claims.select import ClaimSource, Stand, departures, group_of, stands
from qpatchbench.papers.matching import Missing, Record
from qpatchbench.report.leaderboard.row import Row
from qpatchbench.statistics.estimates import Estimate, Statistic, compare, mean, widened

ClaimVerdict: TypeAlias = Literal["holds", "does not hold", "cannot tell", "not measured"]
ProtocolVerdict: TypeAlias = Literal["holds", "does not hold", "too close", ""]
UNITS = {"level": "%", "difference": "points", "ratio": "times"}
VERDICTS: tuple[tuple[ClaimVerdict, str], ...] = (
    ("holds", "the whole 95 % interval lies on the claimed side of the threshold"),
    ("does not hold", "the whole interval lies on the other side"),
    ("cannot tell", "the interval covers the threshold, the protocol is not the paper's, or a check failed"),
    ("not measured", "no row, or no row to compare it with; the reason names what is missing"),
)  # fmt: skip
UNDER_PROTOCOL = (
    "under the protocol of these runs, the same with intervals that hold together for all claims (Holm), or too close: "
    "the interval covers the threshold, and the value lies on the side of the claim (towards it) or not (against it); "
    "rows that fail one of the checks V1, V6, V7, V8, V9, V10 and V15 decide nothing"
)
MEANINGLESS = {"V1", "V6", "V7", "V8", "V9", "V10", "V15"}  # results/CHECKS.md: such a row is no measurement
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
        verdict, reason: as published; the reason is "" where the interval alone decides.
        here: what was measured, in words.
        sound: whether rows that pass the checks are among those measured; only they decide under the runs' protocol.
        under: the verdict under the protocol of the runs, from `decided`; "" where there is none.
        method: how intervals were made.
        runs: folders that rows are from.
    """

    claim: Claim
    verdict: ClaimVerdict
    reason: str
    groups: tuple[RowGroup, ...] = ()
    decisive: RowGroup | None = None
    method: str = ""
    here: str = "nothing was measured"
    runs: tuple[str, ...] = ()
    sound: bool = False
    under: ProtocolVerdict = ""

    @property
    def leans(self) -> str:
        """On which side of the threshold the value lies: "towards it" or "against it"."""
        if self.decisive is None:
            return ""
        return "towards it" if _margins(self.claim.hypothesis, self.decisive.effect)[0] > 0 else "against it"

    @property
    def wanting(self) -> str:
        """What is too close: by how much more its interval would have to rest on, if its value stays."""
        if self.under != "too close" or self.decisive is None:
            return ""
        value, worse, better = _margins(self.claim.hypothesis, self.decisive.effect)
        reach = abs((worse if value > 0 else better) - value)
        if not math.isfinite(reach) or not value:
            return "repetitions: no interval was measured"
        return f"at least {max(2, math.ceil((reach / value) ** 2))} times the images and seeds"


def examine_all(claims: Sequence[Claim], sources: Sequence[ClaimSource]) -> list[Finding]:
    """Test claims on all rows of all runs that they are about."""
    return decided([examine(claim, sources) for claim in claims])


def examine(claim: Claim, sources: Sequence[ClaimSource]) -> Finding:
    """Test one claim, as published."""
    hypothesis = claim.hypothesis
    answers = [(source, stands(hypothesis, source)) for source in sources]
    measured = [stand for _, answer in answers if not isinstance(answer, Missing) for stand in answer]
    if not measured:
        return Finding(claim, "not measured", _missing(answers))
    sound = [stand for stand in measured if not any(map(_meaningless, (*stand.rows, *stand.baseline)))]
    groups = _groups(hypothesis, sound or measured)
    decisive = _decisive(hypothesis, groups)
    alone = _alone(hypothesis, groups)
    told = departures(claim, measured)
    wide = _covers(hypothesis, decisive) if alone == "cannot tell" else ""
    return Finding(
        claim,
        "cannot tell" if told else alone,
        "; ".join([*told, *filter(None, [wide])]),
        tuple(groups),
        decisive,
        _method(hypothesis, groups),
        _here(hypothesis, groups, decisive),
        tuple(dict.fromkeys(stand.source.folder.name for stand in measured)),
        bool(sound),
    )


def decided(found: Sequence[Finding]) -> list[Finding]:
    """The same with verdicts under the protocol of the runs, which hold together at 95 % (Holm 1979).

    What is decided with intervals for all claims is set aside, and the others are asked again with intervals for those
    that are left, until none is decided.
    """
    waiting = {each.claim.id: each for each in found if each.sound}
    verdicts: dict[str, ProtocolVerdict] = dict.fromkeys(waiting, "too close")
    while waiting:
        now = {name: _together(each, len(waiting)) for name, each in waiting.items()}
        settled = {name: verdict for name, verdict in now.items() if verdict != "too close"}
        if not settled:
            break
        verdicts |= settled
        waiting = {name: each for name, each in waiting.items() if name not in settled}
    return [replace(each, under=verdicts.get(each.claim.id, "")) for each in found]


def _together(found: Finding, count: int) -> ProtocolVerdict:
    """What intervals say that hold together for `count` claims."""
    hypothesis, alike = found.claim.hypothesis, len(found.groups)
    wide = [
        replace(group, effect=widened(group.effect, alike * count, hypothesis.statistic, alike))
        for group in found.groups
    ]
    alone = _alone(hypothesis, wide)
    return alone if alone in ("holds", "does not hold") else "too close"


def _meaningless(row: Record) -> bool:
    return isinstance(row, Row) and bool(MEANINGLESS & set(row.failed_checks.split()[1:]))


def _missing(answers: Sequence[tuple[ClaimSource, list[Stand] | Missing]]) -> str:
    missing = [(answer, source.folder.name) for source, answer in answers if isinstance(answer, Missing)]
    nearest, name = max(missing, key=lambda each: each[0].depth)
    return nearest.reason if len(missing) == 1 else f"{name}: {nearest.reason}"


def _groups(hypothesis: Hypothesis, found: Sequence[Stand]) -> list[RowGroup]:
    """Every group's effect is the mean over its comparisons, and its interval is widened for their number.

    What several runs measured of one group on networks of the same trainings is one measurement: that of the first run.
    """
    by_name: dict[tuple[str, ...], list[Stand]] = defaultdict(list)
    for stand in found:
        earlier = by_name[group_of(stand.rows[0], hypothesis.each)]
        if all(
            stand.source is each.source or not stand.source.checkpoints & each.source.checkpoints for each in earlier
        ):
            earlier.append(stand)
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


def _method(hypothesis: Hypothesis, groups: Sequence[RowGroup]) -> str:
    if hypothesis.quantity in ("relative_time", "relative_inference"):
        kind = "quartiles of the timed rounds, side by side with the reference"
    elif hypothesis.quantity == "gradient_cosine":
        kind = "standard errors over images, as if independent"
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
    elif quantity in ("relative_time", "relative_inference"):
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
