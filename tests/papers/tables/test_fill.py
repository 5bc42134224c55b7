"""Verdicts, and the tables as people read them: equal to the print, and complete beside it."""

from __future__ import annotations

import csv
import io
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from qpatchbench.papers.matching import Measured, Missing, SearchedRun
from qpatchbench.papers.printed.contradictions import contradictions
from qpatchbench.papers.printed.published_tables import PublishedTable, published_table, published_tables
from qpatchbench.papers.tables.fill import FilledTable, filled
from qpatchbench.papers.tables.table_texts import (
    as_csv,
    as_latex,
    as_markdown,
    contradictions_csv,
    contradictions_latex,
    contradictions_markdown,
    footnotes,
    without_formulas,
)
from qpatchbench.papers.tables.verdicts import MARKS, Comparison, ordering, verdict
from qpatchbench.report.page.escaping import tex
from tests.papers.test_matching import FULL, folder, row
from tests.papers.test_matching_analyses import COSTS, IMAGENET, SIMILAR

TABLES = tuple(published_tables().values())
NOTHING = Missing("nothing was run")


def measured(value: float, half: float = 1, departures: tuple[str, ...] = ()) -> Measured:
    return Measured(value, value - half, value + half, 100, "run", "a row", departures)


def pairs(*numbers: tuple[float, float]) -> list[Comparison]:
    return [Comparison(published, measured(value)) for published, value in numbers]


# Verdicts


@pytest.mark.parametrize(
    ("cells", "order"),
    [
        (pairs((80, 60), (70, 50), (60, 40)), "as published"),
        (pairs((80, 60), (70, 50), (60, 55)), "not as published"),
        (pairs((80, 60), (70, 59)), "not separable"),
        (pairs((80, 60), (70, 58)), "not separable"),
        (pairs((80, 60), (80, 10), (70, 5)), "as published"),
        (pairs((80, 60), (80, 10)), ""),
        (pairs((80, 60)), ""),
        ([], ""),
        ([*pairs((80, 60), (70, 50)), Comparison(90, NOTHING)], "as published"),
        ([*pairs((80, 60)), Comparison(90, NOTHING)], ""),
        ([*pairs((80, 60)), Comparison(70, measured(50, math.nan))], "not separable"),
    ],
)
def test_an_order_needs_intervals_apart_in_every_pair(cells: list[Comparison], order: str) -> None:
    assert ordering(cells) == order
    assert ordering(cells[::-1]) == order


@pytest.mark.parametrize(
    ("found", "row_order", "column_order", "given", "reason"),
    [
        (NOTHING, "as published", "", "not measured", "nothing was run"),
        (measured(50), "", "", "holds", "within [49, 51]"),
        (measured(51), "not as published", "", "holds", "within [50, 52]"),
        (measured(49, 5), "", "", "holds", "within [44, 54]"),
        (measured(49, 6), "as published", "", "cannot tell", "interval too wide: 12, more than 10"),
        (measured(60), "", "not separable", "does not hold", "outside [59, 61]"),
        (measured(90, 20), "", "", "does not hold", "outside [70, 110]"),
        (measured(60), "as published", "", "ordering holds", "row as published"),
        (measured(60), "not as published", "as published", "ordering holds", "column as published"),
        (measured(60), "as published", "as published", "ordering holds", "row and column as published"),
        (measured(50, 1, ("jpeg", "few")), "as published", "", "cannot tell", "jpeg; few"),
        (measured(60, 1, ("jpeg",)), "as published", "", "cannot tell", "jpeg"),
        (measured(50, math.nan), "as published", "", "cannot tell", "no interval was measured"),
    ],
)
def test_verdicts(found: Measured | Missing, row_order: str, column_order: str, given: str, reason: str) -> None:
    assert verdict(Comparison(50, found), row_order, column_order, is_rate=True) == (given, reason)  # type: ignore[arg-type]  # literals


def test_other_numbers_than_rates_may_be_a_fifth_wide() -> None:
    assert verdict(Comparison(1.5, measured(1.5, 0.14)), "", "", is_rate=False)[0] == "holds"
    given = verdict(Comparison(1.5, measured(1.5, 0.16)), "", "", is_rate=False)
    assert given == ("cannot tell", "interval too wide: 0.32, more than 0.3")


# A run that measured table 1 of TriQDef, as far as ResNet-56 and ResNet-20 go


def made_up() -> SearchedRun:
    rows = []
    rates = {
        "lavan": {"32": 86, "8": 83, "4": 76, "2": 73},
        "gap": {"32": 60, "8": 50, "4": 40, "2": 30},
    }
    for attack, by_bits in rates.items():
        for bits, rate in by_bits.items():
            facts = {"attack": attack, "target_bits": bits, "quantization": "fp" if bits == "32" else "qat"}
            rows.append(row(**facts, asr=rate, asr_low=rate - 1, asr_high=rate + 1))
    rows.append(row(model="resnet20", source_model="resnet20", asr=50, asr_low=49, asr_high=51))
    return SearchedRun(folder(*rows, costs=COSTS))


def test_cells_of_a_table_get_their_verdicts() -> None:
    table = filled(published_table("triqdef.1"), [made_up()])
    rows = dict(table.blocks[0].rows)
    assert [cell.verdict for cell in rows["Res-56"] if cell] == ["holds"] * 4 + ["ordering holds"] * 4
    assert [cell.verdict for cell in rows["Res-20"] if cell] == [
        "not measured", "does not hold", *["not measured"] * 6,
    ]  # fmt: skip
    # 83.24 and 83.73 are published of 8 bits, 83 and 50 were measured.
    assert rows["Res-20"][1] is not None
    assert rows["Res-20"][1].column_order == "not as published"
    assert table.count() == {"holds": 4, "ordering holds": 4, "does not hold": 1, "not measured": 23}
    first = rows["Res-56"][0]
    assert first is not None
    assert first.difference == pytest.approx(86 - 86.43)


def test_rows_of_two_datasets_and_two_metrics_have_no_common_order() -> None:
    rows = [
        row(dataset=name, model=model, defense="pbat", clean_accuracy=rate, target_bits=bits)
        for name, model, rate in (("cifar10", "resnet56", 10), ("imagenet", "resnet34", 90))
        for bits in ("5",)
    ]
    table = filled(published_table("triqdef.4"), [SearchedRun(folder(*rows))])
    assert {cell.column_order for cell in table.cells} == {""}


def test_the_first_run_that_has_a_cell_wins_and_is_named() -> None:
    first = SearchedRun(folder(row(asr=10)))
    second = made_up()
    object.__setattr__(second.folder, "name", "second")
    table = filled(published_table("triqdef.1"), [first, second])
    by_place = {(cell.row, cell.column): cell for cell in table.cells}
    eight, four = by_place["Res-56", "LAVAN 8bit"].found, by_place["Res-56", "LAVAN 4bit"].found
    assert isinstance(eight, Measured)
    assert isinstance(four, Measured)
    assert (eight.value, eight.run) == (10, "run")
    assert (four.value, four.run) == (76, "second")
    nowhere = by_place["VGG-19", "LAVAN 8bit"]
    assert nowhere.reason == "run: no row with model vgg19; there: resnet56"
    nearest = by_place["Res-20", "LAVAN 4bit"]
    assert nearest.reason == "second: no row with target_bits 4; there: 8"


def test_a_stand_in_takes_all_cells_of_an_architecture_or_none() -> None:
    """Of table 20, a ResNet-56 has the original patch alone, a ResNet-20 the shifted one too."""
    original, shifted = {"asr": 80}, {"asr": 10, "transformation": "shift 2,2"}
    smaller = {"model": "resnet20", "source_model": "resnet20"}
    itself = SearchedRun(folder(row(**original)), {"resnet56": "resnet20"})
    less = SearchedRun(folder(row(**smaller, asr=30)), {"resnet56": "resnet20"})
    more = SearchedRun(folder(row(**smaller, asr=30), row(**smaller, **shifted)), {"resnet56": "resnet20"})

    def shown(*sources: SearchedRun) -> list[float | None]:
        cells = filled(published_table("qadtr.20"), sources).cells
        wanted = [cell for cell in cells if cell.published.target_bits == "8"][:2]
        return [cell.found.value if isinstance(cell.found, Measured) else None for cell in wanted]

    assert shown(less, itself) == [80, None], "it would add no cell"
    assert shown(more, itself) == [30, 10], "80 beside 10 would look like an effect of the shift"
    assert shown(more.alone, itself.alone) == [80, None]


def test_every_kind_of_number_is_looked_for() -> None:
    costs = filled(published_table("triqdef.17"), [made_up()])
    assert costs.count() == {"holds": 2, "ordering holds": 3, "cannot tell": 5, "not measured": 30}
    similar = filled(published_table("triqdef.12"), [SearchedRun(folder(manifest=IMAGENET, similarity=SIMILAR))])
    assert similar.count() == {"cannot tell": 2, "not measured": 22}
    for name, reason in (
        ("qadtr.17", "a setting, not a result"),
        ("triqdef.18", "the cost of inference is not measured by runs"),
    ):
        assert {cell.reason for cell in filled(published_table(name), [made_up()]).cells} == {reason}


def test_no_cell_is_left_blank() -> None:
    cells = [cell for table in TABLES for cell in filled(table, [made_up()]).cells]
    assert len(cells) == 1033
    for cell in cells:
        assert cell.verdict in MARKS
        assert cell.reason


# The published numbers alone


def printed(table: PublishedTable) -> list[list[list[str]]]:
    """Digits of every block, row by row."""
    return [
        [["" if value is None else value.value_printed for value in row] for _, row in block.grid()]
        for block in table.blocks
    ]


def pipes(text: str) -> list[list[list[str]]]:
    """Cells of the Markdown tables in a text, without headings and names of rows."""
    tables = re.findall(r"^\|.*\n\|(?: -+:? \|)+\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [
        [[cell.strip().replace("\\", "") for cell in line.split("|")[2:-1]] for line in body.splitlines()]
        for body in tables
    ]


def test_layouts_are_regenerated_cell_by_cell(subtests: pytest.Subtests) -> None:
    assert len(TABLES) == 39
    for table in TABLES:
        with subtests.test(table.name):
            is_regenerated_cell_by_cell(table)


def is_regenerated_cell_by_cell(table: PublishedTable) -> None:
    alone = filled(table, [])
    if table.blocks:
        assert pipes(as_markdown([alone])) == printed(table)
        assert [body for _, body in tabulars(as_latex([alone]))] == [
            [[tex(text) for text in line] for line in block] for block in printed(table)
        ]
    rows = list(csv.DictReader(io.StringIO(as_csv([alone]))))
    assert [each["published_as_printed"] for each in rows] == [value.value_printed for value in table.values]
    assert [float(each["published"]) for each in rows] == [value.value for value in table.values]
    assert "measured" not in (rows[0] if rows else {})


def test_a_table_of_words_is_printed_in_words() -> None:
    text = as_markdown([filled(published_table("qadtr.1"), [])])
    assert "| dwq | random precision training (RPT) | global random precision inference (RPI) |" in text
    (grid,) = pipes(text)
    assert [len(line) for line in grid] == [3] * 4


def test_all_1033_numbers_are_rows_of_the_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv([filled(table, []) for table in TABLES]))))
    assert len(rows) == 1033
    assert {(each["paper"], each["table"]) for each in rows} == {
        (table.paper, str(table.number)) for table in TABLES if table.values
    }


# Texts of tables with measured numbers


def test_cells_read_measured_interval_published_and_mark() -> None:
    text = as_markdown([filled(published_table("triqdef.1"), [made_up()])])
    (grid,) = pipes(text)
    assert grid[0][0] == "86.0 [85.0, 87.0] / 86.43 ="
    assert grid[0][5] == "50.0 [49.0, 51.0] / 56.69 ~"
    assert grid[1][1] == "50.0 [49.0, 51.0] / 83.73 x"
    assert grid[3][7] == "- / 48.90"


def test_csv_has_a_row_per_number_with_everything() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv([filled(published_table("triqdef.1"), [made_up()])]))))
    assert len(rows) == 32
    assert {name: rows[1][name] for name in ("row", "column", "model", "target_bits", "metric")} == {
        "row": "Res-56", "column": "LAVAN 8bit", "model": "resnet56", "target_bits": "8", "metric": "asr",
    }  # fmt: skip
    names = ("measured", "low", "high", "n", "difference", "published", "verdict", "run", "row_order")
    assert [rows[1][name] for name in names] == [
        "83", "82", "84", "9000", "-0.24", "83.24", "holds", "run", "as published",
    ]  # fmt: skip
    assert rows[-1]["reason"] == "no row with model vgg16; there: resnet56, resnet20"
    assert rows[-1]["measured"] == ""


def test_footnotes_tell_contradictions_assumptions_and_reasons(subtests: pytest.Subtests) -> None:
    for table in TABLES:
        with subtests.test(table.name):
            footnotes_tell_all(table)


def footnotes_tell_all(table: PublishedTable) -> None:
    notes = list(footnotes(filled(table, [made_up()])))
    for each in table.contradictions:
        assert f"{each.id} ({each.kind.replace('_', ' ')}): {each.text}" in notes
    for facet, guess in table.assumed.items():
        assert f"not stated, assumed: {facet} {guess}" in notes
    assert notes[0].startswith(f"Of {len(table.values)} published numbers: ")
    metrics = {value.metric for value in table.values}
    assert any(note.startswith("asr: attack success rate") for note in notes) == ("asr" in metrics)
    told = [note for note in notes if re.match(r"(cannot tell|not measured) \(", note)]
    counted = filled(table, [made_up()]).count()
    assert sum(int(note.split("(")[1].split(")")[0]) for note in told) == counted.get("cannot tell", 0) + counted.get(
        "not measured", 0
    )


def test_the_order_of_cells_that_cannot_be_told_is_told() -> None:
    jpeg = SearchedRun(folder(*made_up().folder.rows, manifest={**FULL, "dataset_note": "cifar10 (jpeg)"}))
    notes = list(footnotes(filled(published_table("triqdef.1"), [jpeg])))
    assert (
        "order of the 9 cells that cannot be told: as published within the row 8, not as published 0; within the "
        "column 0 and 2"
    ) in notes


# LaTeX

TEX = {
    "published": lambda: [filled(table, []) for table in TABLES],
    "measured": lambda: [filled(table, [made_up()]) for table in TABLES],
}
ENGINES = ("pdflatex", "lualatex", "xelatex", "tectonic")
ENGINE = next(filter(None, map(shutil.which, ENGINES)), None)


def latex(kind: str) -> str:
    return contradictions_latex(contradictions()) if kind == "contradictions" else as_latex(TEX[kind]())


def tabulars(text: str) -> list[tuple[str, list[list[str]]]]:
    """Column specification of every tabular, and its rows without heading and names."""
    found = re.findall(r"\\begin\{tabular\}\{([^\n]*)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL)
    return [
        (spec, [line.removesuffix(r" \\").split(" & ")[1:] for line in body.split("\\midrule\n")[1].splitlines()[:-1]])
        for spec, body in found
    ]


@pytest.mark.parametrize("kind", TEX)
def test_latex_is_well_formed(kind: str) -> None:
    text = as_latex(TEX[kind]())
    assert text.startswith("\\documentclass{article}")
    assert text.endswith("\\end{document}\n")
    assert r"\usepackage{booktabs}" in text
    open_environments: list[str] = []
    for word, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if word == "begin":
            open_environments.append(name)
        else:
            assert open_environments.pop() == name
    assert open_environments == []
    assert text.count("{") == text.count("}")
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == len(tabulars(text))
    for spec, body in tabulars(text):
        columns = len(re.sub(r"\{[^}]*\}", "", spec)) - 1
        assert {len(line) for line in body} == {columns}
    content = text.partition(r"\begin{document}")[2]
    assert not re.search(r"(?<!\\)[%#](?!\n)", content)
    # Dollars come in pairs, and beside them no sign is left that needs one.
    outside = re.sub(r"(?<!\\)\$[^$\n]*(?<!\\)\$", "", content)
    assert not re.search(r"(?<!\\)[$_^]", re.sub(r"\\label\{.*\}", "", outside))
    assert outside.isascii(), sorted({letter for letter in outside if not letter.isascii()})
    names = re.findall(r"\\label\{tab:(.*)\}", text)
    assert names == [table.name for table in TABLES]


def test_cells_of_wide_tables_are_stacked() -> None:
    text = as_latex([filled(published_table("triqdef.1"), [made_up()])])
    assert r" & \shortstack[r]{86.0 \\ {[}85.0, 87.0{]} \\ / 86.43 =} & " in text
    assert r" & \shortstack[r]{- \\ / 87.22} & " in text
    costs = as_latex([filled(published_table("triqdef.17"), [made_up()])])
    assert r"\shortstack[r]{200 \\ {[}180, 240{]} \\ / {[}170{]} " in costs


@pytest.mark.parametrize("kind", [*TEX, "contradictions"])
def test_every_command_of_the_latex_is_known(kind: str) -> None:
    commands = set(re.findall(r"\\([a-zA-Z]+)", latex(kind)))
    assert {"begin", "end"} < commands <= KNOWN_COMMANDS, commands - KNOWN_COMMANDS


@pytest.mark.skipif(ENGINE is None, reason="no LaTeX engine: found neither " + ", nor ".join(ENGINES))
@pytest.mark.parametrize("kind", [*TEX, "contradictions"])
def test_latex_compiles(kind: str, tmp_path: Path) -> None:
    engine = str(ENGINE)
    text = latex(kind)
    (tmp_path / "all.tex").write_text(text, encoding="utf-8")
    options = [] if engine.endswith("tectonic") else ["-interaction=nonstopmode", "-halt-on-error"]
    done = subprocess.run([engine, *options, "all.tex"], cwd=tmp_path, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    assert (tmp_path / "all.pdf").stat().st_size > 10_000


KNOWN_COMMANDS = {
    *(
        "addlinespace",
        "shortstack",
        "documentclass",
        "usepackage",
        "begin",
        "end",
        "sloppy",
        "centering",
        "small",
        "footnotesize",
        "caption",
        "label",
    ),
    *("resizebox", "linewidth", "toprule", "midrule", "bottomrule", "par", "medskip", "noindent", "item", "emph"),
    *("clearpage", "alpha", "beta", "lambda", "sigma", "epsilon", "times", "circ", "approx"),
    *("textasciitilde", "textasciicircum", "textbackslash", "textless", "textgreater", "textbar"),
}


def test_letters_that_latex_has_in_formulas_only() -> None:
    assert tex("8×8, 5°, α_b < [2]") == r"8$\times$8, 5$^{\circ}$, $\alpha$\_b \textless{} {[}2{]}"
    assert tex(without_formulas(r"$(\lambda_{\text{FDP}}, \lambda_{\text{GPDP}})$ (1.0, 1.0)")) == (
        r"($\lambda$\_FDP, $\lambda$\_GPDP) (1.0, 1.0)"
    )


# Contradictions


def test_contradictions_in_every_format() -> None:
    known = contradictions()
    rows = list(csv.DictReader(io.StringIO(contradictions_csv(known))))
    assert [(each["id"], each["kind"], each["text"]) for each in rows] == [(c.id, c.kind, c.text) for c in known]
    assert rows[1]["tables"] == "triqdef.5 qadtr.11"
    text = contradictions_markdown(known)
    assert len(re.findall(r"^\| [XTQ]\d\d \|", text, re.MULTILINE)) == 67
    assert contradictions_latex(known).count("\n\\item[") == 67


def test_a_filled_table_knows_its_runs() -> None:
    alone: FilledTable = filled(published_table("triqdef.1"), [])
    assert (alone.runs, alone.count()) == ((), {})
    assert filled(published_table("triqdef.1"), [made_up()]).runs == ("run",)
