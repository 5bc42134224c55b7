"""Ratios that survive a busy machine: alternating repetitions, and the median of their ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Row(NamedTuple):
    """One line of the result.

    Attributes:
        name: what was compared.
        value: the figure, ready to print.
        meaning: how to read it.
    """

    name: str
    value: str
    meaning: str


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def alternate(works: Mapping[str, Callable[[], object]], repetitions: int = 3) -> dict[str, list[float]]:
    """Wall times of each, after one warm-up; they take turns, so that a slow minute slows all of them."""
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repetitions):
        for name, work in works.items():
            times[name].append(seconds(work))
    return times


def ratio(times: Mapping[str, list[float]], first: str, second: str) -> float:
    """Median over repetitions of time(first) / time(second)."""
    return statistics.median(a / b for a, b in zip(times[first], times[second], strict=True))
