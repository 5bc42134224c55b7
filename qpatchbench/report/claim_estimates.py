"""Quantities of leaderboard rows with intervals, and how two of them compare.

Two rows of one run are compared on the same resamples of its images, so that what they share cancels (a paired
bootstrap, evaluation.statistics). Without the outcomes of single images only their own intervals are left, which are
combined as if the rows were independent: the square-and-add intervals of Newcombe (1998, doi:10.1002/(SICI)1097-0258
(19980430)17:8<873::AID-SIM779>3.0.CO;2-I), for ratios on the logarithms (Zou, Donner 2008, doi:10.1002/sim.3095).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtri

from qpatchbench.evaluation.comparison import Outcomes
from qpatchbench.evaluation.records import CellRecord
from qpatchbench.evaluation.statistics import CONFIDENCE, Array, bootstrap_rates, percentile_interval, wilson
from qpatchbench.reference.claims import Quantity, Statistic
from qpatchbench.report.comparing import Comparisons
from qpatchbench.report.ordering import ROW_KEY
from qpatchbench.report.reading import Run

Row = Mapping[str, Any]
_WITH_BOUNDS = ("asr", "asr_common", "asr_net")


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


class Sampler:
    """Bootstrap replicates of rows of one run folder; none where it was published without its outcomes."""

    def __init__(self, directory: Path) -> None:
        whole = all((directory / name).is_file() for name in ("cells.parquet", "outcomes.parquet"))
        self._run = Run(directory) if whole else None
        self._comparisons: Comparisons | None = None
        self._cells: dict[tuple[str, ...], list[CellRecord]] = defaultdict(list)
        self._known: dict[tuple[tuple[str, ...], Quantity], Array | None] = {}
        for cell in self._run.cells if self._run else ():
            if not cell.control and cell.status == "ok":
                self._cells[tuple(str(getattr(cell, name)) for name in ROW_KEY)].append(cell)

    def replicates(self, row: Row, quantity: Quantity) -> Array | None:
        """(R,) in percent, over seeds, target classes and images.

        Raises:
            ArtifactError: the outcomes contradict the record.
        """
        key = tuple(str(row[name]) for name in ROW_KEY)
        if (key, quantity) not in self._known:
            self._known[key, quantity] = self._drawn(self._cells.get(key, []), quantity)
        return self._known[key, quantity]

    def _drawn(self, cells: Sequence[CellRecord], quantity: Quantity) -> Array | None:
        counted = [self._counted(cell, quantity) for cell in sorted(cells, key=lambda cell: cell.seed)]
        known = [each for each in counted if each is not None]
        if not known or len(known) < len(counted) or len({success.shape for success, _ in known}) > 1:
            return None
        success, trials = (np.stack(each) for each in zip(*known, strict=True))
        return 100 * bootstrap_rates(success, trials)

    def _counted(self, cell: CellRecord, quantity: Quantity) -> tuple[Array, Array] | None:
        """Successes and trials of a cell, (goals, images) boolean."""
        assert self._run is not None
        outcomes: Outcomes = self._run.outcomes(cell)
        whole = np.ones_like(outcomes.fooled)
        if quantity == "clean_accuracy":
            return outcomes.correct[None], whole[:1]
        if quantity == "robust_accuracy":
            return outcomes.robust, whole
        if quantity == "asr":
            return outcomes.fooled, outcomes.eligible
        if quantity == "asr_common":
            self._comparisons = self._comparisons or Comparisons(self._run)
            common = self._comparisons.common(cell)
            return None if common is None else (outcomes.fooled & common, outcomes.eligible & common)
        return None


def estimate(row: Row, quantity: Quantity, sampler: Sampler) -> Estimate | None:
    """A quantity of one row; None where it was not measured.

    Accuracies have no interval in a leaderboard: Wilson's, over the images of one seed, stands in.
    """
    if quantity == "relative_time":
        # Runs of before have no quartiles of ratios.
        return Estimate(row[quantity], *(row.get(f"{quantity}_{end}", math.nan) for end in ("low", "high")))
    if not row.get(quantity):
        return None
    value = float(row[quantity])
    if quantity in _WITH_BOUNDS:
        # Leaderboards of before have no column for every bound.
        low, high = (float(row.get(f"{quantity}_{end}") or math.nan) for end in ("low", "high"))
    else:
        images = int(row["n_images"])
        low, high = (100 * bound for bound in wilson(round(value / 100 * images), images))
    return Estimate(value, low, high, sampler.replicates(row, quantity))


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


def widened(found: Estimate, count: int, statistic: Statistic) -> Estimate:
    """The interval that holds together with `count` of its kind (Bonferroni), scaled as a normal one."""
    scale = float(ndtri(1 - (1 - CONFIDENCE) / 2 / count) / ndtri((1 + CONFIDENCE) / 2))
    bounds = (found.low, found.high)
    if statistic == "ratio" and found.value > 0:
        low, high = (found.value * (bound / found.value) ** scale for bound in bounds)
    else:
        low, high = (found.value + scale * (bound - found.value) for bound in bounds)
    if statistic == "level":
        low, high = max(0.0, low), min(100.0, high)
    return Estimate(found.value, low, high, found.replicates)


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
