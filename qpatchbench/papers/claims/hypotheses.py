"""What the two papers claim, as hypotheses about rows of a leaderboard; each with where it is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple, TypeAlias

from qpatchbench.errors import UnknownNameError
from qpatchbench.papers.printed.contradictions import Contradiction, contradictions
from qpatchbench.papers.printed.files import read_yaml
from qpatchbench.papers.printed.settings import PAPERS
from qpatchbench.statistics.estimates import Quantity, Statistic

Quantifier: TypeAlias = Literal["every", "some"]
COMPONENTS = ("defense", "attack")


class Named(NamedTuple):
    """A component: its name here, and the fields that make it the variant that is meant."""

    name: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Selection:
    """Rows of a leaderboard.

    Attributes:
        components: defense and attack -> those that fit.
        facets: other facets -> the values that fit.
    """

    components: Mapping[str, tuple[Named, ...]]
    facets: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Hypothesis:
    """What is measured, and what it has to be.

    Attributes:
        statistic: level: the quantity in `rows`; difference: in rows - in baseline; ratio: in rows / in baseline.
        quantity: a rate in percent, or the time of a training step relative to that of the run's reference.
        rows, baseline: what is compared; no baseline for a level.
        vary: facets in which a row may differ from its baseline; in all others they agree.
        direction: on which side of the threshold the effect has to lie.
        threshold: in percent, points or times, as the statistic has it.
        each: facets that make groups; the rows of a group are averaged.
        quantifier: whether every group has to lie there, or some.
    """

    statistic: Statistic
    quantity: Quantity
    rows: Selection
    baseline: Selection | None
    vary: tuple[str, ...]
    direction: Literal["above", "below"]
    threshold: float
    each: tuple[str, ...]
    quantifier: Quantifier

    def __str__(self) -> str:
        """The hypothesis in one line, `difference of asr below -40 points in every dataset, model`."""
        unit = {"level": " %", "difference": " points", "ratio": " times"}[self.statistic]
        where = f"{self.quantifier} {', '.join(self.each)}"
        return f"{self.statistic} of {self.quantity} {self.direction} {self.threshold:g}{unit} in {where}"


@dataclass(frozen=True)
class Claim:
    """A claim.

    Attributes:
        id: paper and what it is about.
        paper: triqdef or qadtr.
        where: section in which it is said.
        tables: the tables that it rests on; none where only the text has it.
        contradictions: what contradicts the sentence, or the tables behind it.
        says: the hypothesis in words.
        hypothesis: the same as data; None where runs cannot test it.
        needs: what would be needed beyond a leaderboard; "" where nothing is.
        note: how the sentence was read, and whose choice the threshold is.
    """

    id: str
    paper: str
    where: str
    tables: tuple[str, ...]
    contradictions: tuple[Contradiction, ...]
    says: str
    hypothesis: Hypothesis | None
    needs: str
    note: str


@cache
def claims() -> tuple[Claim, ...]:
    """All claims, TriQDef's first."""
    return tuple(_claim(entry) for entry in read_yaml("claims.yaml"))


def claims_of(paper: str | None) -> tuple[Claim, ...]:
    """Those of one paper, or all.

    Raises:
        UnknownNameError: no such paper.
    """
    if paper is not None and paper not in PAPERS:
        raise UnknownNameError("paper", paper, PAPERS)
    return tuple(claim for claim in claims() if paper in (None, claim.paper))


def _claim(entry: Mapping[str, Any]) -> Claim:
    known = {each.id: each for each in contradictions()}
    return Claim(
        id=entry["id"],
        paper=entry["paper"],
        where=entry["where"],
        tables=tuple(entry["tables"]),
        contradictions=tuple(known[name] for name in entry["contradictions"]),
        says=entry["says"],
        hypothesis=None if "needs" in entry else _hypothesis(entry),
        needs=entry.get("needs", ""),
        note=entry.get("note", ""),
    )


def _hypothesis(entry: Mapping[str, Any]) -> Hypothesis:
    above = "above" in entry
    return Hypothesis(
        statistic=entry["statistic"],
        quantity=entry["quantity"],
        rows=_selection(entry["rows"]),
        baseline=_selection(entry["baseline"]) if "baseline" in entry else None,
        vary=tuple(entry.get("vary", ())),
        direction="above" if above else "below",
        threshold=float(entry["above" if above else "below"]),
        each=tuple(entry["each"]),
        quantifier=entry["quantifier"],
    )


def _selection(entry: Mapping[str, Sequence[Any]]) -> Selection:
    return Selection(
        {name: tuple(map(_named, entry[name])) for name in COMPONENTS if name in entry},
        {name: tuple(values) for name, values in entry.items() if name not in COMPONENTS},
    )


def _named(entry: str | Mapping[str, Any]) -> Named:
    if isinstance(entry, str):
        return Named(entry, {})
    return Named(entry["name"], {name: value for name, value in entry.items() if name != "name"})
