"""Hyper-parameters and set-up facts that the papers state, and what their figures show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from qpatchbench.errors import UnknownNameError
from qpatchbench.papers.printed.files import read_yaml

PAPERS = ("triqdef", "qadtr")


@dataclass(frozen=True)
class Hyperparameter:
    """One hyper-parameter.

    Attributes:
        symbol: the paper's letter, in ASCII.
        meaning: in words.
        value: as stated: a number, text or list; None where it is named without a value.
        where: section, equation or table that states it.
    """

    symbol: str
    meaning: str
    value: Any
    where: str


@dataclass(frozen=True)
class Figure:
    """What a figure shows.

    Attributes:
        paper, number: which figure.
        kind: plot, diagram, image_grid, ...
        shows: in words.
        data: what would have to be measured to draw it; None for a diagram.
        numbers: those that the text quotes from it.
    """

    paper: str
    number: int
    kind: str
    shows: str
    data: str | None
    numbers: tuple[Mapping[str, Any], ...]


def hyperparameters(paper: str) -> tuple[Hyperparameter, ...]:
    """The hyper-parameters of a paper, in its order.

    Raises:
        UnknownNameError: no such paper.
    """
    return tuple(
        Hyperparameter(each["symbol"], each["meaning"], each["value"], each["where"])
        for each in _facts(paper)["hyperparameters"]
    )


def setup(paper: str) -> Mapping[str, Any]:
    """Data, schedules, patch sizes and what is not stated; nested, as the paper tells it.

    Raises:
        UnknownNameError: no such paper.
    """
    found: Mapping[str, Any] = _facts(paper)["setup"]
    return found


@cache
def figures() -> tuple[Figure, ...]:
    """All figures of both papers."""
    return tuple(
        Figure(
            each["paper"],
            each["number"],
            each["kind"],
            each["shows"],
            each["data"],
            tuple(each.get("numbers_in_text", ())),
        )
        for each in read_yaml("figures.yaml")
    )


def _facts(paper: str) -> Mapping[str, Any]:
    if paper not in PAPERS:
        raise UnknownNameError("paper", paper, PAPERS)
    found: Mapping[str, Any] = _settings()[paper]
    return found


@cache
def _settings() -> Mapping[str, Any]:
    found: Mapping[str, Any] = read_yaml("hyperparameters.yaml")
    return found
