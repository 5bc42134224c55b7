"""The tables as they are printed: rows and columns in order, with a number, words or nothing in every cell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property

from qpatchbench.errors import UnknownNameError
from qpatchbench.papers.printed.contradictions import Contradiction, contradictions
from qpatchbench.papers.printed.package_data import read
from qpatchbench.papers.printed.values import PublishedValue, values_by_table
from qpatchbench.report.figures import QADTR, TRIQDEF

Key = tuple[str, ...]
CITATIONS = {"triqdef": TRIQDEF, "qadtr": QADTR}
PAPERS = tuple(CITATIONS)


@dataclass(frozen=True)
class Words:
    """A cell that holds words instead of a number."""

    row: str
    column: str
    printed: str


@dataclass(frozen=True)
class Block:
    """Rows under one heading; most tables have a single block.

    Attributes:
        rows, columns: keys in printed order.
        row_names, column_names: the same, as printed.
        cells: numbers by (row, column); a pair without a number is blank in print.
    """

    rows: tuple[Key, ...]
    columns: tuple[Key, ...]
    row_names: tuple[str, ...]
    column_names: tuple[str, ...]
    cells: Mapping[tuple[Key, Key], PublishedValue]

    def grid(self) -> Iterator[tuple[str, list[PublishedValue | None]]]:
        """Name and numbers of every row, None where nothing is printed."""
        for row, name in zip(self.rows, self.row_names, strict=True):
            yield name, [self.cells.get((row, column)) for column in self.columns]


@dataclass(frozen=True)
class PublishedTable:
    """A printed table.

    Attributes:
        name: paper and number, `triqdef.5`.
        caption: what it shows, in short.
        index, across: the facets that its rows and columns stand for.
        blocks: in printed order; none in a table of words.
        words: cells without a number.
        assumed: facet -> what a reader would guess where the paper does not say.
    """

    name: str
    caption: str
    index: tuple[str, ...]
    across: tuple[str, ...]
    blocks: tuple[Block, ...]
    words: tuple[Words, ...]
    assumed: Mapping[str, str]

    @property
    def paper(self) -> str:
        """The paper: triqdef or qadtr."""
        return self.name.partition(".")[0]

    @property
    def number(self) -> int:
        """Its number in the paper."""
        return int(self.name.partition(".")[2])

    @cached_property
    def values(self) -> tuple[PublishedValue, ...]:
        """Its numbers, row by row."""
        return tuple(value for block in self.blocks for _, row in block.grid() for value in row if value is not None)

    @property
    def contradictions(self) -> tuple[Contradiction, ...]:
        """Those that concern it."""
        return tuple(each for each in contradictions() if self.name in each.tables)


@cache
def published_tables() -> Mapping[str, PublishedTable]:
    """All 39 tables by name, in the order of the papers."""
    return {layout.name: _table(layout) for layout in read("layouts.yaml", _Layout)}


def published_table(name: str) -> PublishedTable:
    """A table by its name.

    Raises:
        UnknownNameError: no such table.
    """
    tables = published_tables()
    if name not in tables:
        raise UnknownNameError("table", name, tables)
    return tables[name]


@dataclass(frozen=True)
class _Keys:
    """A block of layouts.yaml."""

    rows: tuple[Key, ...]
    columns: tuple[Key, ...]


@dataclass(frozen=True)
class _Layout:
    """A table of layouts.yaml; `values` counts its numbers."""

    name: str
    caption: str
    values: int
    index: tuple[str, ...]
    across: tuple[str, ...]
    blocks: tuple[_Keys, ...]
    words: tuple[Words, ...] = ()
    assumed: Mapping[str, str] = field(default_factory=dict)


def _table(layout: _Layout) -> PublishedTable:
    values = values_by_table().get(layout.name, ())
    cells = {(value.key(layout.index), value.key(layout.across)): value for value in values}
    assert len(cells) == len(values) == layout.values, f"{layout.name}: two numbers in one cell, or one too many"
    return PublishedTable(
        name=layout.name,
        caption=" ".join(layout.caption.split()),
        index=layout.index,
        across=layout.across,
        blocks=tuple(_block(block, cells) for block in layout.blocks),
        words=layout.words,
        assumed=layout.assumed,
    )


def _block(keys: _Keys, cells: Mapping[tuple[Key, Key], PublishedValue]) -> Block:
    rows, columns = keys.rows, keys.columns
    own = {place: value for place, value in cells.items() if place[0] in rows and place[1] in columns}
    names_of_row, names_of_column = defaultdict(set), defaultdict(set)
    for (row, column), value in own.items():
        names_of_row[row].add(value.printed_row)
        names_of_column[column].add(value.printed_column)
    # A column that every row calls by another name is a column of symbols: they go to the names of the rows.
    symbols = {column for column, names in names_of_column.items() if len(names) > 1}
    row_names = [
        " ".join([*names_of_row[row], *(own[row, column].printed_column for column in columns if column in symbols)])
        for row in rows
    ]
    printed = [column[-1] if column in symbols else "".join(names_of_column[column]) for column in columns]
    # Two figures of one printed cell, a range for example, are told apart by their metric.
    column_names = [
        name if printed.count(name) == 1 else f"{name} ({column[-1]})"
        for name, column in zip(printed, columns, strict=True)
    ]
    return Block(rows, columns, tuple(row_names), tuple(column_names), own)
