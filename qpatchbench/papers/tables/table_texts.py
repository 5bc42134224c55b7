"""Filled tables as tidy CSV, and in the printed layout as Markdown and LaTeX."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from qpatchbench.papers.matching import RATES, Measured
from qpatchbench.papers.printed.contradictions import Contradiction
from qpatchbench.papers.printed.published_tables import CITATIONS, PublishedTable
from qpatchbench.papers.printed.values import FACETS
from qpatchbench.papers.tables.fill import Cell, FilledTable
from qpatchbench.papers.tables.verdicts import DEFINITIONS
from qpatchbench.report.leaderboard.row import ACCURACIES
from qpatchbench.report.page.definitions import definitions_text
from qpatchbench.report.page.escaping import markdown_text, one_line, tex
from qpatchbench.report.page.grid import ENDING, PREAMBLE, Grid

PUBLISHED_COLUMNS = ("paper", "table", "row", "column", *FACETS, "published", "published_as_printed", "note")
MEASURED_COLUMNS = (
    *("measured", "low", "high", "n", "difference", "verdict", "reason", "row_order", "column_order"),
    *("run", "matched"),
)
_WIDE = 5  # columns from which on a table is shrunk to the width of the page
_WORDS = r"p{0.27\linewidth}"


def as_csv(tables: Sequence[FilledTable]) -> str:
    """One row per published number, with all that it belongs to."""
    looked = any(table.runs for table in tables)
    names = (*PUBLISHED_COLUMNS, *(MEASURED_COLUMNS if looked else ()))
    return Grid(
        names,
        [(*_published(table, cell), *(_measured(cell) if looked else ())) for table in tables for cell in table.cells],
    ).csv()


def as_markdown(tables: Sequence[FilledTable]) -> str:
    """The printed layout: measured [low, high] / published and the mark of the verdict."""
    return "\n".join(part for table in tables for part in _markdown(table))


def as_latex(tables: Sequence[FilledTable]) -> str:
    """A whole document with the same; every `table` environment can be lifted out of it, and needs booktabs only.

    Wide ones need graphicx too.
    """
    return PREAMBLE + "\n".join(part for table in tables for part in _latex(table)) + "\n" + ENDING


def footnotes(table: FilledTable) -> Iterator[str]:
    """What a reader must know beside the numbers; for published numbers alone, what is about the print."""
    published = table.published
    if table.runs:
        given = ", ".join(f"{count} {name}" for name, count in table.count().items())
        yield f"Of {len(table.cells)} published numbers: {given or 'none'}. Runs: {', '.join(table.runs)}."
        yield "Cells: measured [95 % interval] / published, verdict. " + "; ".join(
            f"{mark} {text}" for mark, text in DEFINITIONS
        )
        metrics = {cell.published.metric for cell in table.cells}
        yield from definitions_text(tuple(name for name in RATES if name in metrics))
        if table.counted_intervals and metrics & set(ACCURACIES):
            yield "intervals of accuracies: Wilson's over the images of one seed"
        reasons = Counter((cell.verdict, cell.reason) for cell in table.cells)
        for (verdict, reason), count in reasons.most_common():
            if verdict in ("cannot tell", "not measured"):
                yield f"{verdict} ({count}): {reason}"
        orders = [(cell.row_order, cell.column_order) for cell in table.cells if cell.verdict == "cannot tell"]
        if orders:
            yield (
                f"order of the {len(orders)} cells that cannot be told: as published within the row "
                f"{sum(row == 'as published' for row, _ in orders)}, not as published "
                f"{sum(row == 'not as published' for row, _ in orders)}; within the column "
                f"{sum(column == 'as published' for _, column in orders)} and "
                f"{sum(column == 'not as published' for _, column in orders)}"
            )
    for facet, guess in published.assumed.items():
        yield f"not stated, assumed: {facet} {guess}"
    notes = Counter(cell.published.note for cell in table.cells if cell.published.note)
    for note, count in notes.items():
        yield f"transcription ({count} of {len(table.cells)} numbers): {note}"
    if table.blocks:
        for words in published.words:
            yield f"printed in words: {words.row}, {words.column}: {words.printed}"
    for each in published.contradictions:
        yield f"{each.id} ({each.kind.replace('_', ' ')}): {each.text}"


def contradictions_csv(found: Sequence[Contradiction]) -> str:
    """One row per contradiction."""
    rows = [(each.id, each.kind, " ".join(each.tables), each.text) for each in found]
    return Grid(("id", "kind", "tables", "text"), rows).csv()


def contradictions_markdown(found: Sequence[Contradiction]) -> str:
    """A table of them."""
    rows = [(each.id, each.kind, ", ".join(each.tables) or "text", each.text) for each in found]
    return f"# Contradictions\n\n{Grid(('id', 'kind', 'tables', 'what'), rows).markdown()}\n"


def contradictions_latex(found: Sequence[Contradiction]) -> str:
    """A document with a list of them."""
    items = [
        rf"\item[{tex(each.id)}] \emph{{{tex(', '.join(each.tables) or 'text')}}} ({tex(each.kind)}): "
        + tex(without_formulas(each.text))
        for each in found
    ]
    return "\n".join([PREAMBLE + r"\begin{description}", *items, r"\end{description}", ENDING])


def without_formulas(text: str) -> str:
    r"""Without the LaTeX that the text of a paper kept: $(\lambda_{\text{FDP}}, ...)$ is (λ_FDP, ...)."""
    text = re.sub(r"\\lambda_\{\\text\{(\w+)\}\}", r"λ_\1", one_line(text))
    return re.sub(r"\$(\([^$]*\))\$", r"\1", text)


def _published(table: FilledTable, cell: Cell) -> tuple[object, ...]:
    value = cell.published
    facets = (getattr(value, facet) for facet in FACETS)
    place = (table.published.paper, table.published.number, cell.row, cell.column)
    return (*place, *facets, f"{value.value:g}", value.value_printed, value.note)


def _measured(cell: Cell) -> tuple[object, ...]:
    found, told = cell.found, (cell.verdict, cell.reason, cell.row_order, cell.column_order)
    if not isinstance(found, Measured) or cell.difference is None:
        return ("", "", "", "", "", *told, "", "")
    numbers = [_exact(number) for number in (found.value, found.low, found.high)]
    return (*numbers, found.n, _exact(cell.difference), *told, found.run, found.row)


def _exact(number: float) -> str:
    return "" if math.isnan(number) else f"{number:.6g}"


def _shown(cell: Cell | None, *, looked: bool) -> str:
    if cell is None:
        return ""
    printed = cell.published.value_printed
    if not looked:
        return printed
    if not isinstance(cell.found, Measured):
        return f"- / {printed}"
    rate = cell.published.metric in RATES
    value, low, high = (f"{x:.1f}" if rate else f"{x:.3g}" for x in (cell.found.value, cell.found.low, cell.found.high))
    interval = "" if math.isnan(cell.found.low) else f" [{low}, {high}]"
    return f"{value}{interval} / {printed} {cell.mark}"


def _title(table: PublishedTable) -> str:
    return f"{table.name}: {table.caption}"


def _grids(table: FilledTable) -> Iterator[Grid]:
    """Every block, or a table of words."""
    looked = bool(table.runs)
    for block in table.blocks:
        heading = ["", *(tuple(without_formulas(name).rsplit(" ", 1)) for name in block.columns)]
        rows = [
            [without_formulas(name), *(_parts(_shown(cell, looked=looked)) for cell in cells)]
            for name, cells in block.rows
        ]
        yield Grid(heading, rows, {" ".join(parts) for parts in heading[1:]})
    if not table.blocks:
        words = table.published.words
        columns = list(dict.fromkeys(each.column for each in words))
        said = {(each.row, each.column): each.printed for each in words}
        names = dict.fromkeys(each.row for each in words)
        yield Grid(["", *columns], [[name, *(said[name, column] for column in columns)] for name in names])


def _parts(cell: str) -> tuple[str, ...]:
    """What was measured, its interval, and the published number.

    >>> _parts("1.56 [1.5, 1.6] / [4.2] ?")
    ('1.56', '[1.5, 1.6]', '/ [4.2] ?')
    """
    return tuple(re.split(r"(?<!/) (?=\[|/ )", cell))


def _markdown(table: FilledTable) -> Iterator[str]:
    yield f"## {_title(table.published)}\n"
    yield f"{CITATIONS[table.published.paper]}, table {table.published.number}.\n"
    for grid in _grids(table):
        yield grid.markdown() + "\n"
    yield "\n".join([*(f"- {markdown_text(note)}" for note in footnotes(table)), ""])


def _latex(table: FilledTable) -> Iterator[str]:
    published = table.published
    yield r"\begin{table}[!t]"
    yield r"\centering\small"
    yield rf"\caption{{{tex(_title(published))}. {tex(CITATIONS[published.paper])}, table {published.number}.}}"
    yield rf"\label{{tab:{published.name}}}"
    for grid in _grids(table):
        wide = len(grid.names) > _WIDE
        columns = f"l{('r' if table.blocks else _WORDS) * (len(grid.names) - 1)}"
        yield r"\resizebox{\linewidth}{!}{%" if wide else "%"
        yield grid.latex(columns, stacked=wide and bool(table.runs)) + ("}" if wide else "") + r"\par\medskip"
    yield r"\end{table}"
    # Outside the floating table: footnotes may be longer than a page.
    notes = [rf"\item {tex(without_formulas(note))}" for note in footnotes(table)]
    if notes:
        yield rf"\noindent {tex(published.name)}:\begin{{itemize}}\footnotesize"
        yield from notes
        yield r"\end{itemize}"
    yield r"\clearpage"
