"""One of two runs that are compared: its rows, and the outcomes behind each of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from qpatchbench.report.leaderboard.keys import ROW_KEY
from qpatchbench.report.leaderboard.published import RunFolder
from qpatchbench.runs.layout import CELLS, OUTCOMES
from qpatchbench.runs.outcomes import StoredOutcomes
from qpatchbench.runs.records import CellRecord
from qpatchbench.runs.run import Run

Key: TypeAlias = tuple[str, ...]


def key_of(row: Mapping[str, str]) -> Key:
    """What identifies a row: everything but the seed."""
    return tuple(row[name] for name in ROW_KEY)


class Side:
    """One run: its rows, and its outcomes where the folder has them."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        directory = Path(folder.name)
        whole = all((directory / name).is_file() for name in (CELLS, OUTCOMES))
        self.run = Run(directory) if whole else None
        self._cells: dict[Key, list[CellRecord]] = defaultdict(list)
        for cell in self.run.cells if self.run else ():
            if not cell.control and cell.status == "ok":
                self._cells[tuple(str(getattr(cell, name)) for name in ROW_KEY)].append(cell)

    def cells(self, key: Key) -> list[CellRecord]:
        """The finished cells of a row, by seed."""
        return sorted(self._cells.get(key, []), key=lambda cell: cell.seed)

    def stored(self, key: Key) -> list[StoredOutcomes]:
        """Outcomes of those cells, checked against their records."""
        assert self.run is not None
        for cell in self.cells(key):
            self.run.outcomes(cell)
        return [self.run.stored(cell) for cell in self.cells(key)]
