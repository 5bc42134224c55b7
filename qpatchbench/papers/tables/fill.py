"""A published table with what runs measured for each of its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from qpatchbench.papers.matching import RATES, Measured, Missing, SearchedRun
from qpatchbench.papers.matching_analyses import COSTS, SIMILARITIES, find_cost, find_similarity
from qpatchbench.papers.printed.published_tables import Block, Key, PublishedTable
from qpatchbench.papers.printed.values import PublishedValue
from qpatchbench.papers.tables.verdicts import MARKS, CellVerdict, Comparison, Ordering, ordering, verdict
from qpatchbench.papers.vocabulary import row_modes

Place: TypeAlias = tuple[Key, Key]


@dataclass(frozen=True)
class Cell:
    """A published number beside what was measured.

    Attributes:
        published: the number.
        row, column: names of its place, as printed.
        found: what was measured, or why not; None where nothing was looked for.
        row_order, column_order: whether the measured neighbours are ordered as published.
        verdict, reason: "" where nothing was looked for.
    """

    published: PublishedValue
    row: str
    column: str
    found: Measured | Missing | None = None
    row_order: Ordering = ""
    column_order: Ordering = ""
    verdict: CellVerdict | str = ""
    reason: str = ""

    @property
    def difference(self) -> float | None:
        """Measured - published."""
        return self.found.value - self.published.value if isinstance(self.found, Measured) else None

    @property
    def mark(self) -> str:
        """The verdict in one character."""
        return MARKS[self.verdict] if self.verdict else ""  # type: ignore[index]  # "" is the only other text


@dataclass(frozen=True)
class FilledBlock:
    """Rows under one heading, as `printed.tables.Block`, with cells instead of numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]


@dataclass(frozen=True)
class FilledTable:
    """A table with its cells.

    Attributes:
        runs: the folders that were looked at; none for the published numbers alone.
        counted_intervals: whether a leaderboard among them has no intervals of accuracies, see `row.read_row`.
    """

    published: PublishedTable
    blocks: tuple[FilledBlock, ...]
    runs: tuple[str, ...] = ()
    counted_intervals: bool = False

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Row by row."""
        return tuple(cell for block in self.blocks for _, row in block.rows for cell in row if cell is not None)

    def count(self) -> dict[str, int]:
        """How often each verdict was given, in the order of the verdicts."""
        given = Counter(cell.verdict for cell in self.cells)
        return {name: given[name] for name in MARKS if given[name]}


def filled(table: PublishedTable, sources: Sequence[SearchedRun]) -> FilledTable:
    """Look for every number of a table in runs; of several the first that has it is taken."""
    blocks = tuple(_filled_block(table, block, sources) for block in table.blocks)
    counted = any(row.counted_intervals for source in sources for row in source.folder.rows)
    return FilledTable(table, blocks, tuple(source.folder.name for source in sources), counted)


def _filled_block(table: PublishedTable, block: Block, sources: Sequence[SearchedRun]) -> FilledBlock:
    if not sources:
        return FilledBlock(block.column_names, tuple(_printed_row(block, name, row) for name, row in block.grid()))
    found = {
        place: Comparison(block.cells[place].value, answer) for place, answer in _answers(table, block, sources).items()
    }
    rows = []
    for key, name in zip(block.rows, block.row_names, strict=True):
        cells = [
            _cell(block, found, (key, across), name, column) if (key, across) in found else None
            for across, column in zip(block.columns, block.column_names, strict=True)
        ]
        rows.append((name, tuple(cells)))
    return FilledBlock(block.column_names, tuple(rows))


def _answers(table: PublishedTable, block: Block, sources: Sequence[SearchedRun]) -> dict[Place, Measured | Missing]:
    """What was measured for every cell, by the published architecture itself or by what stands in for it.

    It stands in for all cells of the architecture, or for none: next to each other, two networks of different
    trainings would look like an effect of defense or bit-width. For none where it would add no cell.
    """
    modes = {key: row_modes(row) for key, (_, row) in zip(block.rows, block.grid(), strict=True)}

    def look(among: Sequence[SearchedRun]) -> dict[Place, Measured | Missing]:
        return {place: _found(table.name, value, modes[place[0]], among) for place, value in block.cells.items()}

    itself = look([source.alone for source in sources])
    if not any(source.stand_ins for source in sources):
        return itself
    either = look(sources)
    gained = {
        _architecture(value)
        for place, value in block.cells.items()
        if isinstance(either[place], Measured) and isinstance(itself[place], Missing)
    }
    return {
        place: (either if _architecture(value) in gained else itself)[place] for place, value in block.cells.items()
    }


def _architecture(value: PublishedValue) -> tuple[str, str]:
    return value.dataset, value.model


def _printed_row(block: Block, name: str, row: Sequence[PublishedValue | None]) -> tuple[str, tuple[Cell | None, ...]]:
    places = zip(row, block.column_names, strict=True)
    return name, tuple(None if value is None else Cell(value, name, column) for value, column in places)


def _cell(block: Block, found: dict[Place, Comparison], place: Place, row: str, column: str) -> Cell:
    value = block.cells[place]
    in_row = [found[each] for each in _neighbours(block, place, of_row=True)]
    in_column = [found[each] for each in _neighbours(block, place, of_row=False)]
    row_order, column_order = ordering(in_row), ordering(in_column)
    given, reason = verdict(found[place], row_order, column_order, is_rate=value.metric in RATES)
    return Cell(value, row, column, found[place].found, row_order, column_order, given, reason)


def _neighbours(block: Block, place: Place, *, of_row: bool) -> list[Place]:
    """The places of a row (of one group of columns, all bit-widths of an attack for example) or of a column.

    Only numbers of one metric and one dataset have an order.
    """
    row, column = place
    value = block.cells[place]
    return [
        each
        for each, other in block.cells.items()
        if (each[0] == row and each[1][:-1] == column[:-1] if of_row else each[1] == column)
        and (other.metric, other.dataset) == (value.metric, value.dataset)
    ]


def _found(table: str, value: PublishedValue, row_mode: str, sources: Sequence[SearchedRun]) -> Measured | Missing:
    missing: list[tuple[Missing, str]] = []
    for source in sources:
        found = _found_in(source, table, value, row_mode)
        if isinstance(found, Measured):
            return found
        missing.append((found, source.folder.name))
    nearest, name = max(missing, key=lambda each: each[0].depth)
    return nearest if len(sources) == 1 else Missing(f"{name}: {nearest.reason}", nearest.depth)


def _found_in(source: SearchedRun, table: str, value: PublishedValue, row_mode: str) -> Measured | Missing:
    if value.metric in RATES:
        return source.find(table, value, row_mode)
    if value.metric in COSTS:
        return find_cost(source, value)
    if value.metric in SIMILARITIES:
        return find_similarity(source.folder, table, value)
    if value.metric == "hyperparameter":
        return Missing("a setting, not a result")
    return Missing("the cost of inference is not measured by runs")
