"""Effects with intervals, from draws of a bootstrap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from scipy.special import ndtri

from qpatchbench.statistics.intervals import CONFIDENCE, Array, percentile_interval

Statistic: TypeAlias = Literal["level", "difference", "ratio"]


Quantity: TypeAlias = Literal[
    "asr",
    "asr_common",
    "asr_net",
    "clean_accuracy",
    "robust_accuracy",
    "relative_time",
    "relative_inference",
    "gradient_cosine",
]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; in percent, points or times.

    Attributes:
        value, low, high: the number and its bounds.
        replicates: (R,) bootstrap replicates; None where the outcomes of single images are not at hand.
    """

    value: float
    low: float
    high: float
    replicates: Array | None = None


def mean(estimates: Sequence[Estimate]) -> Estimate:
    """Their mean: with replicates from those, else with the means of the bounds, which bound it in any case."""
    if len(estimates) == 1:
        return estimates[0]
    value, low, high = (
        float(np.mean([getattr(each, name) for each in estimates])) for name in ("value", "low", "high")
    )
    known = [each.replicates for each in estimates if each.replicates is not None]
    if len(known) < len(estimates) or len({len(each) for each in known}) > 1:
        return Estimate(value, low, high)
    return _resampled(value, np.mean(known, axis=0)) or Estimate(value, low, high)


def compare(rows: Estimate, baseline: Estimate, statistic: Statistic) -> Estimate:
    """Difference rows - baseline or ratio rows / baseline; paired where both have replicates of the same images."""
    value, apart = _difference(rows, baseline) if statistic == "difference" else _ratio(rows, baseline)
    if rows.replicates is None or baseline.replicates is None:
        return apart
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = (
            rows.replicates - baseline.replicates
            if statistic == "difference"
            else np.where(baseline.replicates > 0, rows.replicates / baseline.replicates, np.nan)
        )
    return _resampled(value, drawn) or apart


def widened(found: Estimate, count: int, statistic: Statistic, already: int = 1) -> Estimate:
    """The interval that holds together with `count` of its kind (Bonferroni), scaled as a normal one.

    Args:
        found: its interval holds together with `already` of its kind.
        count: of all intervals that have to hold together.
        statistic: ratios are scaled on the logarithm.
        already: 1 for an interval that holds alone.
    """
    scale = _normal_bound(count) / _normal_bound(already)
    bounds = (found.low, found.high)
    if statistic == "ratio" and found.value > 0:
        low, high = (found.value * (bound / found.value) ** scale for bound in bounds)
    else:
        low, high = (found.value + scale * (bound - found.value) for bound in bounds)
    if statistic == "level":
        low, high = max(0.0, low), min(100.0, high)
    return Estimate(found.value, low, high, found.replicates)


def _normal_bound(count: int) -> float:
    return float(ndtri(1 - (1 - CONFIDENCE) / 2 / count))


def _resampled(value: float, drawn: Array) -> Estimate | None:
    """None where no resample differs from another: such an interval would have no width."""
    interval = percentile_interval(drawn)
    return None if not interval.high > interval.low else Estimate(value, interval.low, interval.high, drawn)


def _difference(rows: Estimate, baseline: Estimate) -> tuple[float, Estimate]:
    value = rows.value - baseline.value
    below = math.hypot(rows.value - rows.low, baseline.high - baseline.value)
    above = math.hypot(rows.high - rows.value, baseline.value - baseline.low)
    return value, Estimate(value, value - below, value + above)


def _ratio(rows: Estimate, baseline: Estimate) -> tuple[float, Estimate]:
    if not baseline.value > 0:
        return math.nan, Estimate(math.nan, math.nan, math.nan)
    logs = [[_log(each.low), _log(each.value), _log(each.high)] for each in (rows, baseline)]
    value = rows.value / baseline.value
    if not rows.value > 0:
        return value, Estimate(value, 0.0, rows.high / baseline.low if baseline.low > 0 else math.inf)
    below = math.hypot(logs[0][1] - logs[0][0], logs[1][2] - logs[1][1])
    above = math.hypot(logs[0][2] - logs[0][1], logs[1][1] - logs[1][0])
    return value, Estimate(value, value * math.exp(-below), value * math.exp(above))


def _log(number: float) -> float:
    return -math.inf if number <= 0 else math.log(number)  # of what is not known: not known
