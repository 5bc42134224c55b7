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
from pathlib import Path
from typing import Any

import numpy as np

from qpatchbench.report.leaderboard.counterparts import Comparisons
from qpatchbench.report.leaderboard.keys import ROW_KEY
from qpatchbench.runs.layout import CELLS, OUTCOMES
from qpatchbench.runs.outcomes import Outcomes
from qpatchbench.runs.records import CellRecord
from qpatchbench.runs.run import Run
from qpatchbench.statistics.estimates import Estimate, Quantity
from qpatchbench.statistics.intervals import Array, bootstrap_rates, wilson

Row = Mapping[str, Any]
_WITH_BOUNDS = ("asr", "asr_common", "asr_net")


class Sampler:
    """Bootstrap replicates of rows of one run folder; none where it was published without its outcomes."""

    def __init__(self, directory: Path) -> None:
        whole = all((directory / name).is_file() for name in (CELLS, OUTCOMES))
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
