"""One grid in four languages, with text that each of them would read as a command."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from qpatchbench.report.page.escaping import tex
from qpatchbench.report.page.grid import ENDING, PREAMBLE, Grid

WORDS = "λ_FDP ≤ β → 2 | *a* <b> & 5 % [x] \\ ${}~^# ε Å é Ω “q” – … 中"
GRID = Grid(
    ("name", ("measured", "[low, high]")), [(WORDS, ("1.5", "[1, 2]")), (None, "a,b")], {"measured [low, high]"}
)


def test_csv_has_the_text_itself() -> None:
    rows = list(csv.reader(io.StringIO(GRID.csv())))
    assert rows[1][0] == WORDS
    assert rows[2] == ["", "a,b"]


def test_markdown_is_one_line_a_row_with_pipes_of_its_own_only() -> None:
    heading, marks, first, second = GRID.markdown().splitlines()
    assert heading == "| name | measured [low, high] |"
    assert marks == "| --- | ---: |"
    assert r"λ\_FDP ≤ β → 2 \| \*a\* \<b> & 5 %" in first
    assert first.endswith("| 1.5 [1, 2] |")
    assert second == "|  | a,b |"


def test_html_is_well_formed_and_marks_numbers_and_failures() -> None:
    table = ElementTree.fromstring(GRID.html(failed={1}))
    assert [cell.get("class") for cell in table.iter("th")] == ["text", "number"]
    assert [row.get("class") for row in table.iter("tr")] == [None, None, "failed"]
    assert [cell.text for cell in table.iter("td")] == [WORDS, "1.5 [1, 2]", None, "a,b"]


def test_latex_stacks_the_parts_of_a_cell_where_it_is_asked_to() -> None:
    assert r"& 1.5 {[}1, 2{]} \\" in GRID.latex()
    assert GRID.latex().startswith("\\begin{tabular}{lr}\n\\toprule\nname & measured")
    assert r"\shortstack[r]{1.5 \\ {[}1, 2{]}} \\ \addlinespace" in GRID.latex(stacked=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("λ β Ω Α ε", r"$\lambda$ $\beta$ $\Omega$ A $\varepsilon$"),
        ("a ≤ b → c", r"a $\leq$ b $\rightarrow$ c"),
        ("Guesmi’s Å – é…", "Guesmi's Å -- é\\ldots{}"),
        ("中", "{[}U+4E2D{]}"),
    ],
)
def test_letters_beyond_ascii(text: str, expected: str) -> None:
    assert tex(text) == expected


def test_a_document_with_every_letter_can_be_typeset(tmp_path: Path) -> None:
    engine = shutil.which("pdflatex")
    if engine is None:
        pytest.skip("no pdflatex on this machine")
    (tmp_path / "grid.tex").write_text(PREAMBLE + GRID.latex() + "\n\n" + GRID.latex(stacked=True) + ENDING)
    done = subprocess.run(
        [engine, "-interaction=nonstopmode", "-halt-on-error", "grid.tex"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]


def test_records_by_column_leave_what_they_lack_empty() -> None:
    assert Grid.of(("a", "b"), [{"a": 1}, {"b": 2, "c": 3}]).csv() == "a,b\n1,\n,2\n"
