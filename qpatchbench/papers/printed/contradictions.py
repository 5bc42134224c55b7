"""Statements of the two papers that contradict each other or themselves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from qpatchbench.papers.printed.package_data import read


@dataclass(frozen=True)
class Contradiction:
    """One contradiction.

    Attributes:
        id: X.. between the papers or on plausibility, T.. within TriQDef, Q.. within QADT-R.
        tables: names of the tables that it concerns; none where it is about the text alone.
        kind: cross_paper, within, text, identical, labelling, plausibility or placeholder.
        text: what contradicts what.
    """

    id: str
    tables: tuple[str, ...]
    kind: str
    text: str


@cache
def contradictions() -> tuple[Contradiction, ...]:
    """All 67, between papers first."""
    return read("contradictions.yaml", Contradiction)
