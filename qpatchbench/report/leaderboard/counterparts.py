"""Counterparts of a row: its controls, the networks of its comparison, and the source's own cell."""

from __future__ import annotations

from collections import defaultdict
from typing import TypeAlias

import numpy as np

from qpatchbench.evaluation.common_images import common_images, has_collapsed
from qpatchbench.runs.records import CellRecord
from qpatchbench.runs.run import Run
from qpatchbench.statistics.intervals import Array

Deployed: TypeAlias = tuple[str, str]


def deployed(cell: CellRecord) -> Deployed:
    """A target network with what stands before it."""
    return cell.network, cell.preprocessor


def is_white_box(cell: CellRecord) -> bool:
    """Whether the patch was crafted on the target itself: white box."""
    return cell.lineage == "same-network"


class Comparisons:
    """Lookups over the finished cells of a run.

    A comparison is all target networks of one dataset, model, defense, preprocessor and seed whose clean accuracy has
    not collapsed; their common images are those that each of them classifies correctly.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        finished = [cell for cell in run.cells if cell.status == "ok"]
        by_network: dict[Deployed, list[CellRecord]] = defaultdict(list)
        for cell in finished:
            by_network[deployed(cell)].append(cell)
        self.collapsed = {network for network, cells in by_network.items() if has_collapsed(cells)}
        self._own = {(cell.patch, cell.transformation): cell for cell in finished if is_white_box(cell)}
        self._white_box: dict[tuple[object, ...], list[CellRecord]] = defaultdict(list)
        for cell in finished:
            if is_white_box(cell) and cell.patch_kind == "per_image":
                self._white_box[_rivals_key(cell)].append(cell)
        self._foreign: dict[tuple[object, ...], list[CellRecord]] = defaultdict(list)
        for cell in finished:
            if cell.source_model and not is_white_box(cell) and cell.lineage != "ensemble":
                self._foreign[(*_rivals_key(cell), cell.attack)].append(cell)
        # A control that the suite lists as an attack serves as well as one that was added for it; the latter first.
        controls = [cell for cell in finished if not cell.source_model and cell.lineage != "external"]
        self._controls = {_control_key(cell, cell.attack): cell for cell in sorted(controls, key=_added_last)}
        self._common = self._common_images(by_network)

    def control(self, cell: CellRecord, attack: str) -> CellRecord | None:
        """The cell of `attack` ("random", "grey") on the same network, with the same patch size, places and goals."""
        return self._controls.get(_control_key(cell, attack))

    def own(self, cell: CellRecord) -> CellRecord | None:
        """The cell of the same patch on the network it was crafted on."""
        return self._own.get((cell.patch, cell.transformation))

    def rivals(self, cell: CellRecord) -> tuple[list[CellRecord], list[CellRecord]]:
        """Per-image white-box cells on the same network, size and goals: with gradients, and with scores only.

        Where a score-based attack chose its places, only attacks with gradients that chose theirs are its equals.
        """
        known = self._white_box.get(_rivals_key(cell), [])
        scores = [other for other in known if other.access == "scores"]
        chose = any(other.places == "chosen" for other in scores)
        gradient = [o for o in known if o.access == "gradient" and (o.places == "chosen" or not chose)]
        return gradient, scores

    def foreign(self, cell: CellRecord) -> list[CellRecord]:
        """Cells of the same attack on the same network, size, place and goals, whose patches were crafted elsewhere.

        A patch crafted on several networks of which this is one is not from elsewhere.
        """
        return self._foreign.get((*_rivals_key(cell), cell.attack), [])

    def common(self, cell: CellRecord) -> Array | None:
        """Common images of the cell's comparison, (N,) boolean; None where its network collapsed."""
        return None if deployed(cell) in self.collapsed else self._common.get(_comparison(cell))

    def _common_images(self, by_network: dict[Deployed, list[CellRecord]]) -> dict[tuple[object, ...], Array]:
        common: dict[tuple[object, ...], Array] = {}
        for network, cells in by_network.items():
            if network in self.collapsed:
                continue
            correct = self.run.outcomes(cells[0]).correct
            # The same float network may belong to several defenses of a suite.
            for key in {_comparison(cell) for cell in cells}:
                common[key] = common_images([correct, common.get(key, np.ones_like(correct))])
        return common


def _comparison(cell: CellRecord) -> tuple[object, ...]:
    return cell.dataset, cell.model, cell.defense, cell.preprocessor, cell.seed


def _rivals_key(cell: CellRecord) -> tuple[object, ...]:
    goals = tuple(count.goal for count in cell.counts)
    return (*deployed(cell), cell.patch_height, cell.patch_width, cell.transformation, cell.seed, goals)


def _control_key(cell: CellRecord, attack: str) -> tuple[object, ...]:
    goals = tuple(count.goal for count in cell.counts)
    size = (cell.patch_height, cell.patch_width)
    return (*deployed(cell), attack, *size, cell.transformation, cell.seed, goals)


def _added_last(cell: CellRecord) -> bool:
    return cell.control
