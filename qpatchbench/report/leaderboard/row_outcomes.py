"""The outcomes of single images behind the rows of a run folder, where it has them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from qpatchbench.report.leaderboard.keys import row_key
from qpatchbench.report.leaderboard.published import RunFolder
from qpatchbench.report.leaderboard.row import Row
from qpatchbench.runs.layout import CELLS, OUTCOMES
from qpatchbench.runs.outcomes import StoredOutcomes
from qpatchbench.runs.records import CellRecord
from qpatchbench.runs.run import Run


class RowOutcomes:
    """A folder and the finished cells of its rows.

    Attributes:
        folder: the folder.
        run: its records and outcomes; None where only the leaderboard was published.
    """

    def __init__(self, folder: RunFolder, run: Run | None = None) -> None:
        self.folder = folder
        directory = Path(folder.name)
        whole = run is None and all((directory / name).is_file() for name in (CELLS, OUTCOMES))
        self.run = Run(directory) if whole else run
        self._cells: dict[tuple[str | int, ...], list[CellRecord]] = defaultdict(list)
        for cell in self.run.cells if self.run else ():
            if not cell.control and cell.status == "ok":
                self._cells[row_key(cell)].append(cell)

    def cells(self, row: Row) -> list[CellRecord]:
        """The finished cells of a row, by seed."""
        return sorted(self._cells.get(row.key, []), key=lambda cell: cell.seed)

    def stored(self, row: Row) -> list[StoredOutcomes]:
        """Outcomes of those cells, checked against their records."""
        assert self.run is not None
        for cell in self.cells(row):
            self.run.outcomes(cell)
        return [self.run.stored(cell) for cell in self.cells(row)]
