"""Claims of the two papers as hypotheses about rows of a leaderboard, each with where it is said."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from qpatchbench.errors import UnknownNameError
from qpatchbench.papers.printed.contradictions import Contradiction, contradictions
from qpatchbench.papers.printed.package_data import read
from qpatchbench.papers.printed.published_tables import PAPERS
from qpatchbench.papers.vocabulary import Setting
from qpatchbench.statistics.estimates import Quantity, Statistic

Quantifier: TypeAlias = Literal["every", "some"]


def _setting(entry: str | Mapping[str, Any]) -> Setting:
    """`pbat`, or `{name: triqdef, lambda_fdp: 0}`."""
    if isinstance(entry, str):
        return Setting(entry, {})
    return Setting(entry["name"], {name: value for name, value in entry.items() if name != "name"})


def _known(name: str) -> Contradiction:
    return next(each for each in contradictions() if each.id == name)


_Settings: TypeAlias = tuple[Annotated[Setting, BeforeValidator(_setting)], ...]


class Selection(BaseModel):
    """Rows of a leaderboard: facets with the values that fit, defense and attack as settings."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, tuple[str, ...]] = Field(init=False)

    defense: _Settings = ()
    attack: _Settings = ()

    @property
    def components(self) -> dict[str, tuple[Setting, ...]]:
        """Those of defense and attack that are asked for."""
        given = {"defense": self.defense, "attack": self.attack}
        return {kind: settings for kind, settings in given.items() if settings}

    @property
    def facets(self) -> dict[str, tuple[str, ...]]:
        """All others."""
        return self.__pydantic_extra__


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Hypothesis(_Entry):
    """What is measured, and what it has to be."""

    statistic: Statistic = Field(
        description="level: the quantity in rows; difference: in rows - in baseline; ratio: in rows / in baseline"
    )
    quantity: Quantity = Field(
        description="a rate in percent, the time of a step relative to the run's reference, or 100 times the cosine of "
        "input gradients with those of the widest bit-width"
    )
    rows: Selection
    baseline: Selection | None = Field(default=None, description="what rows are compared with; none for a level")
    vary: tuple[str, ...] = Field(default=(), description="facets in which a row may differ from its baseline")
    above: float | None = Field(default=None, description="threshold in percent, points or times; either this or below")
    below: float | None = None
    each: tuple[str, ...] = Field(description="facets that make groups; the rows of a group are averaged")
    quantifier: Quantifier = Field(description="whether every group has to lie there, or some")

    @model_validator(mode="after")
    def _one_side(self) -> Hypothesis:
        if (self.above is None) == (self.below is None):
            raise ValueError("expected one of above and below")
        return self

    @property
    def direction(self) -> Literal["above", "below"]:
        """On which side of the threshold the effect has to lie."""
        return "below" if self.above is None else "above"

    @property
    def threshold(self) -> float:
        """In percent, points or times, as the statistic has it."""
        found = self.below if self.above is None else self.above
        assert found is not None
        return found

    def __str__(self) -> str:
        """The hypothesis in one line, `difference of asr below -40 points in every dataset, model`."""
        unit = {"level": " %", "difference": " points", "ratio": " times"}[self.statistic]
        where = f"{self.quantifier} {', '.join(self.each)}"
        return f"{self.statistic} of {self.quantity} {self.direction} {self.threshold:g}{unit} in {where}"


class Claim(_Entry):
    """A claim; in the file the fields of its hypothesis stand beside its own."""

    id: str = Field(description="paper and what it is about")
    paper: str = Field(description="triqdef or qadtr")
    where: str = Field(description="section in which it is said")
    tables: tuple[str, ...] = Field(description="that it rests on; none where only the text has it")
    contradictions: tuple[Annotated[Contradiction, BeforeValidator(_known)], ...] = Field(
        description="what contradicts the sentence, or the tables behind it"
    )
    says: str = Field(description="the hypothesis in words")
    hypothesis: Hypothesis = Field(description="the same as data")
    note: str = Field(default="", description="how the sentence was read, and whose choice the threshold is")

    @model_validator(mode="before")
    @classmethod
    def _beside(cls, entry: dict[str, Any]) -> dict[str, Any]:
        own = {name: value for name, value in entry.items() if name in cls.model_fields}
        return {**own, "hypothesis": {name: value for name, value in entry.items() if name not in own}}


@cache
def claims() -> tuple[Claim, ...]:
    """All claims, TriQDef's first."""
    return read("claims.yaml", Claim)


def claims_of(paper: str | None) -> tuple[Claim, ...]:
    """Those of one paper, or all.

    Raises:
        UnknownNameError: no such paper.
    """
    if paper is not None and paper not in PAPERS:
        raise UnknownNameError("paper", paper, PAPERS)
    return tuple(claim for claim in claims() if paper in (None, claim.paper))
