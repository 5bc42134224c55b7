"""Quantities of leaderboard rows with intervals, and with replicates by which two of them are compared.

Two rows of one run are compared on the same resamples of its images, so that what they share cancels (a paired
bootstrap, statistics.intervals). Without the outcomes of single images only their own intervals are left, which are
combined as if the rows were independent: the square-and-add intervals of Newcombe (1998, doi:10.1002/(SICI)1097-0258
(19980430)17:8<873::AID-SIM779>3.0.CO;2-I), for ratios on the logarithms (Zou, Donner 2008, doi:10.1002/sim.3095).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

from qpatchbench.papers.matching import Record
from qpatchbench.report.leaderboard.counterparts import Comparisons
from qpatchbench.report.leaderboard.published import RunFolder
from qpatchbench.report.leaderboard.row import Row
from qpatchbench.report.leaderboard.row_outcomes import RowOutcomes
from qpatchbench.runs.records import CellRecord
from qpatchbench.statistics.estimates import Estimate, Quantity
from qpatchbench.statistics.intervals import CONFIDENCE, Array, bootstrap_rates


class Sampler:
    """Bootstrap replicates of rows of one run folder; none where it was published without its outcomes."""

    def __init__(self, folder: RunFolder) -> None:
        self._outcomes = RowOutcomes(folder)
        self._comparisons: Comparisons | None = None
        self._known: dict[tuple[tuple[str | int, ...], Quantity], Array | None] = {}

    def replicates(self, row: Row, quantity: Quantity) -> Array | None:
        """(R,) in percent, over seeds, target classes and images.

        Raises:
            ArtifactError: the outcomes contradict the record.
        """
        if (row.key, quantity) not in self._known:
            self._known[row.key, quantity] = self._drawn(self._outcomes.cells(row), quantity)
        return self._known[row.key, quantity]

    def _drawn(self, cells: Sequence[CellRecord], quantity: Quantity) -> Array | None:
        counted = [self._counted(cell, quantity) for cell in cells]
        known = [each for each in counted if each is not None]
        if not known or len(known) < len(counted) or len({success.shape for success, _ in known}) > 1:
            return None
        success, trials = (np.stack(each) for each in zip(*known, strict=True))
        return 100 * bootstrap_rates(success, trials)

    def _counted(self, cell: CellRecord, quantity: Quantity) -> tuple[Array, Array] | None:
        """Successes and trials of a cell, (goals, images) boolean."""
        run = self._outcomes.run
        assert run is not None
        outcomes = run.outcomes(cell)
        whole = np.ones_like(outcomes.fooled)
        if quantity == "clean_accuracy":
            return outcomes.correct[None], whole[:1]
        if quantity == "robust_accuracy":
            return outcomes.robust, whole
        if quantity == "asr":
            return outcomes.fooled, outcomes.eligible
        if quantity == "asr_common":
            self._comparisons = self._comparisons or Comparisons(run)
            common = self._comparisons.common(cell)
            return None if common is None else (outcomes.fooled & common, outcomes.eligible & common)
        return None


def has_quantity(row: Record, quantity: Quantity) -> bool:
    """Whether it was measured: runs of before lack some of what analyses tell."""
    if isinstance(row, Row):
        return row.measured(quantity)
    return quantity == "gradient_cosine" or not math.isnan(row.get(quantity) or math.nan)


def estimate(row: Record, quantity: Quantity, sampler: Sampler) -> Estimate:
    """A quantity of one row: a rate of a leaderboard, a relative time of a row of costs, or a cosine times 100."""
    if isinstance(row, Row):
        return Estimate(row.number(quantity), *row.interval(quantity), sampler.replicates(row, quantity))
    if quantity == "gradient_cosine":
        value, error = 100 * row["value"], row["standard_error"]
        half = math.nan if error is None else 100 * ndtri((1 + CONFIDENCE) / 2) * error
        return Estimate(value, value - half, value + half)
    low, high = (row.get(f"{quantity}_{end}", math.nan) for end in ("low", "high"))
    return Estimate(row[quantity], low, high)
