"""Standings as tables: what stands in them, what fits on a page, what a program reads back."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from qpatchbench.errors import ArtifactError, QPatchBenchError
from qpatchbench.report.page.grid import ENDING, PREAMBLE
from qpatchbench.report.standings.baseline import read_baseline, worse_than
from qpatchbench.report.standings.experiments import read_experiments
from qpatchbench.report.standings.filled import BEGINNING, END, filled
from qpatchbench.report.standings.selection import BoardSelection
from qpatchbench.report.standings.standing import Standing, standings
from qpatchbench.report.standings.standing_json import as_json, read_standings
from qpatchbench.report.standings.standing_texts import latex, latex_long, mark, markdown, readable, whole
from tests.report.made_up_runs import row, write_run

ROOT = Path(__file__).parents[3]
DEFENSES = ROOT / "results/cifar_defenses_small"
ENGINE = next(filter(None, map(shutil.which, ("pdflatex", "xelatex", "lualatex"))), None)


@pytest.fixture(scope="module")
def found() -> tuple[Standing, ...]:
    """Eleven defenses at five bit-widths, from what was published of a run."""
    return standings(read_experiments([DEFENSES]))


def test_markdown_has_every_row_and_says_what_its_columns_are(found: tuple[Standing, ...]) -> None:
    text = markdown(found, BoardSelection())
    assert text.count("\n| ") == 55 + 1
    assert "| pbat | 4 | 84.8 [81.4, 87.7] | 5.2 [3.5, 7.7] | 7.8 [5.6, 10.7] lavan | 8.3 [6.0, 11.3] |" in text
    assert "unseen: gap 7x7" in text
    assert "- rank: tests from the intervals, unpaired, of every pair" in text
    assert "PARTIAL" not in text


@pytest.mark.parametrize(("threat", "first"), [("unseen", "pbat"), ("clean", "empir"), ("", "pbat")])
def test_rows_are_ordered_by_what_ranks_them(threat: str, first: str, found: tuple[Standing, ...]) -> None:
    chosen = BoardSelection(bits=("4", "2"), rank_by=threat)
    rows = chosen.rows(found)
    assert [each.bits for each in rows] == ["4"] * 11 + ["2"] * 11
    assert rows[0].defense == first
    values = [each.rates[threat or "white_box"].value for each in rows[:11]]
    assert values == sorted(values, reverse=threat == "clean")


def test_a_mark_is_about_the_columns_shown(found: tuple[Standing, ...]) -> None:
    each = next(each for each in found if each.label == "resnet20 qat qat@4")
    assert mark(each) == "! V1 of unseen"
    assert mark(each, ("white_box",)) == "✓"
    assert readable([each], BoardSelection(threats=("white_box",))).rows[0][-1] == "✓"


def test_a_failed_check_has_a_cross_and_no_rank(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [row(target_bits="4", checks="fail V2; warn V1", status="1 of 2 seeds failed")])
    (line,) = readable(standings(read_experiments([run])), BoardSelection(rank_by="white_box")).rows
    assert line[-2:] == ["✗", "✗ 1 of 1 patches not measured on every seed; V2 of white box; ! V1 of white box"]


def test_csv_has_every_number(found: tuple[Standing, ...]) -> None:
    records = list(csv.DictReader(whole(found).csv().splitlines()))
    assert len(records) == 55
    record = next(each for each in records if (each["defense"], each["bits"]) == ("qat", "4"))
    assert (record["unseen"], record["unseen_successes"], record["unseen_trials"]) == ("18.7805", "77", "410")
    assert (record["white_box_attack"], record["white_box_rank"], record["worst_at_least"]) == (
        "patch_apgd",
        "5",
        "True",
    )
    assert "other_bits" not in record


def test_json_is_read_back(found: tuple[Standing, ...], tmp_path: Path) -> None:
    file = tmp_path / "board.json"
    file.write_text(as_json(found), encoding="utf-8")
    again = read_standings(file)
    assert as_json(again) == as_json(found)
    assert again[0].rates["white_box"].attack == "patch_apgd"
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, "schema_version": 2}), encoding="utf-8")
    with pytest.raises(ArtifactError, match="schema version 1, found 2"):
        read_standings(file)
    file.write_text(json.dumps({**content, "rows": [{}]}), encoding="utf-8")
    with pytest.raises(ArtifactError, match="not the standings"):
        read_standings(file)


def test_what_got_worse_beyond_chance_is_found(found: tuple[Standing, ...], tmp_path: Path) -> None:
    assert worse_than(found, found).worse == ()
    # A board that got better is no worse; the other way round it is, in the rates that changed enough.
    rows = [row(target_bits="4", asr=50, asr_low=45, asr_high=55), row(target_bits="8", asr=10)]
    better = [row(target_bits="4", asr=20, asr_low=16, asr_high=25)]
    old = standings(read_experiments([write_run(tmp_path / "old", rows)]))
    new = standings(read_experiments([write_run(tmp_path / "new", better)]))
    assert {(each.threat, each.now) for each in worse_than(new, old).worse} == {("white_box", 50), ("worst", 50)}
    gone = worse_than(old, new).worse
    assert {each.threat for each in gone} == {"clean", "white_box", "worst"}
    assert all("no longer measured" in str(each) for each in gone)
    file = tmp_path / "new.json"
    file.write_text(as_json(new), encoding="utf-8")
    assert [each.threat for each in worse_than(read_baseline(file), old).worse] == ["white_box", "worst"]


def test_only_what_is_between_markers_is_filled() -> None:
    text = f"before\n{BEGINNING}. --bits 4 -->\nold\n{END}\nafter\n"
    once = filled(text, lambda arguments: "|".join(arguments) + "\n")
    assert once == f"before\n{BEGINNING}. --bits 4 -->\n\n.|--bits|4\n\n{END}\nafter\n"
    assert filled(once, lambda arguments: "|".join(arguments) + "\n") == once
    with pytest.raises(QPatchBenchError, match="found none"):
        filled("nothing", lambda _: "")


def test_compact_latex_states_half_widths(found: tuple[Standing, ...]) -> None:
    text = latex(found, BoardSelection())
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    assert r"pbat & 4 & 84.8\,{\tiny$\pm$3.4}" in text
    assert r"$\geq$36.8" in text


@pytest.mark.skipif(ENGINE is None, reason="no LaTeX engine: found none of pdflatex, xelatex, lualatex")
@pytest.mark.parametrize("form", [latex, latex_long], ids=["compact", "long"])
def test_latex_fits_a_page(form: object, found: tuple[Standing, ...], tmp_path: Path) -> None:
    assert ENGINE is not None
    body = latex(found, BoardSelection()) if form is latex else latex_long(found, BoardSelection())
    head = PREAMBLE.replace(r"\usepackage{booktabs}", "\\usepackage{booktabs}\n\\usepackage{longtable}")
    (tmp_path / "board.tex").write_text(head + body + ENDING, encoding="utf-8")
    done = subprocess.run(
        [ENGINE, "-interaction=nonstopmode", "-halt-on-error", "board.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert re.findall(r"Overfull \\[hv]box \((?:\d{2,}|[2-9])\.\d+pt", done.stdout) == []
