"""A table as Markdown, CSV, LaTeX and HTML: one writer for leaderboards, analyses, comparisons, claims and tables."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from qpatchbench.report.page.escaping import markdown_text, tex

# A cell of several parts is one text, but in LaTeX its parts may stand below each other.
Text: TypeAlias = "object | tuple[str, ...]"

PREAMBLE = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage[margin=1cm]{geometry}
\usepackage{booktabs}
\usepackage{graphicx}
\sloppy
\begin{document}
"""
ENDING = "\\end{document}\n"


@dataclass(frozen=True)
class Grid:
    """Rows under a heading.

    Attributes:
        names: of the columns.
        rows: one cell per column; None is empty.
        right: columns of numbers, which are aligned to the right.
    """

    names: Sequence[Text]
    rows: Sequence[Sequence[Text]]
    right: Collection[str] = frozenset()

    @classmethod
    def of(cls, names: Sequence[str], records: Sequence[Mapping[str, object]]) -> Grid:
        """From records by column; what a record lacks is empty."""
        return cls(names, [[record.get(name) for name in names] for record in records])

    def csv(self) -> str:
        """Comma-separated, with a heading row."""
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([self.names, *self.rows])
        return buffer.getvalue()

    def markdown(self) -> str:
        """A table of pipes, without a line end behind it."""
        marks = ["---:" if self._is_right(name) else "---" for name in self.names]
        lines = [[markdown_text(_whole(cell)) for cell in cells] for cells in (self.names, *self.rows)]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in (lines[0], marks, *lines[1:]))

    def latex(self, columns: str = "", *, above: Sequence[str] = (), stacked: bool = False) -> str:
        r"""A tabular, which needs booktabs.

        Args:
            columns: its specification; from `right` if it is "".
            above: lines over the heading, as wide as the table.
            stacked: whether the parts of a cell stand below each other: all that a wide table says in one line would
                shrink to dust.
        """
        given = columns or "".join("r" if self._is_right(name) else "l" for name in self.names)
        row = _stacked if stacked else _plain
        lines = [rf"\multicolumn{{{len(self.names)}}}{{l}}{{{tex(text)}}} \\" for text in above]
        return "\n".join(
            [
                rf"\begin{{tabular}}{{{given}}}",
                r"\toprule",
                *lines,
                row(self.names),
                r"\midrule",
                *map(row, self.rows),
                r"\bottomrule",
                r"\end{tabular}",
            ]
        )

    def latex_long(self, columns: str = "", *, above: Sequence[str] = ()) -> str:
        r"""A longtable, which breaks over pages and repeats its heading; it needs booktabs and longtable.

        Args:
            columns: its specification; from `right` if it is "".
            above: lines over the first heading, as wide as the table.
        """
        given = columns or "".join("r" if self._is_right(name) else "l" for name in self.names)
        lines = [rf"\multicolumn{{{len(self.names)}}}{{l}}{{{tex(text)}}} \\" for text in above]
        heading = [r"\toprule", _plain(self.names), r"\midrule"]
        return "\n".join(
            [
                rf"\begin{{longtable}}{{{given}}}",
                *([*lines, *heading, r"\endfirsthead"] if lines else []),
                *heading,
                r"\endhead",
                r"\bottomrule",
                r"\endfoot",
                *map(_plain, self.rows),
                r"\end{longtable}",
            ]
        )

    def html(self, failed: Collection[int] = ()) -> str:
        """A <table>; numbers have the class `number`, the rows in `failed` the class `failed`."""
        kinds = ["number" if self._is_right(name) else "text" for name in self.names]

        def cells(tag: str, row: Sequence[Text]) -> str:
            found = zip(kinds, row, strict=True)
            return "".join(f'<{tag} class="{kind}">{html.escape(_whole(cell))}</{tag}>' for kind, cell in found)

        lines = [f"<table>\n<thead><tr>{cells('th', self.names)}</tr></thead>\n<tbody>"]
        for place, row in enumerate(self.rows):
            mark = ' class="failed"' if place in failed else ""
            lines.append(f"<tr{mark}>{cells('td', row)}</tr>")
        return "\n".join([*lines, "</tbody>\n</table>"])

    def _is_right(self, name: Text) -> bool:
        return _whole(name) in self.right


def _whole(cell: Text) -> str:
    return " ".join(cell) if isinstance(cell, tuple) else "" if cell is None else str(cell)


def _plain(cells: Sequence[Text]) -> str:
    return " & ".join(tex(_whole(cell)) for cell in cells) + r" \\"


def _stacked(cells: Sequence[Text]) -> str:
    parts = [cell if isinstance(cell, tuple) else (_whole(cell),) for cell in cells[1:]]
    stacks = (rf"\shortstack[r]{{{stack}}}" for stack in (r" \\ ".join(map(tex, lines)) for lines in parts))
    return " & ".join([tex(_whole(cells[0])), *stacks]) + r" \\ \addlinespace"
