"""Answers of the page: sentences with their numbers, panels with their data, rows that open."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from qpatchbench.report.answers.panels import SERIES, bits_panels, dot_plots, legend, matrix_panel
from qpatchbench.report.answers.sentences import answers
from qpatchbench.report.answers.tables_that_open import board_table, log_table
from qpatchbench.report.leaderboard.published import read_folder
from qpatchbench.report.standings.experiments import read_experiments
from qpatchbench.report.standings.standing import Standing, standings
from qpatchbench.report.standings.transfer_matrix import transfer_matrices
from tests.cli.test_commands import ROOT
from tests.report.made_up_runs import row, write_run

DEFENSES = ROOT / "results/cifar_defenses_small"


@pytest.fixture(scope="module")
def found() -> tuple[Standing, ...]:
    return standings(read_experiments([DEFENSES]))


def said(found: tuple[Standing, ...]) -> dict[str, tuple[str, ...]]:
    return {answer.question: answer.sentences for answer in answers(found)}


def test_questions_are_answered_with_intervals(found: tuple[Standing, ...]) -> None:
    transfer, best, low, trust = said(found).values()
    assert (
        "At 4 bits (qat) a patch made on the float network fools 13.2 % [10.2, 16.8] of the images that resnet20 qat "
        "gets right, 1.5 times a random one." in transfer
    )
    (unseen,) = [text for text in best if text.startswith("Unseen at 4 bits: ")]
    assert unseen.startswith("Unseen at 4 bits: pbat is lowest, 10.1 % [7.6, 13.4]; triqdef_without_penalties (10.5 %)")
    assert unseen.endswith("(tests from the intervals, Holm).")
    assert any(text.startswith("A patch made on resnet20 qat itself fools 51.2 %") for text in low)
    assert trust == ("No patch that the board shows failed a check; warnings stand in its last column.",)
    assert (
        answers(found, {"V2": 34})[-1]
        .sentences[-1]
        .startswith("Of all patches that were measured, failed checks: V2 in 34")
    )


def test_rows_that_may_not_be_trusted_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [row(target_bits="4", checks="fail V13"), row(target_bits="8", status="error")])
    trust = said(standings(read_experiments([run])))["Which rows may not be trusted, and why?"]
    assert trust[0] == "V13 failed in 1 of 2 rows: resnet20 qat qat@4 (white box)."
    assert trust[1] == "Not everything was measured in resnet20 qat qat@8."


def test_panels_hold_every_number_as_text_and_as_data(found: tuple[Standing, ...]) -> None:
    for matrix in transfer_matrices(read_folder(DEFENSES).rows):
        panel = matrix_panel(matrix)
        records = list(csv.DictReader(panel.csv.splitlines()))
        assert len(records) == len(matrix.cells)
        texts = [part.text for part in ElementTree.fromstring(panel.svg).iter("text")]
        for record in records:
            assert f"{float(record['asr_net']):.1f}{record['significant']}" in texts
            assert (record["significant"] == "*") == (float(record["low"]) > 0)
    dots, curves = [*dot_plots(found)], [*bits_panels(found)]
    assert len(dots) == 5
    assert len(curves) == 11
    for panel in (*dots, *curves):
        markers = [part for part in ElementTree.fromstring(panel.svg).iter() if "dot" in part.get("class", "").split()]
        assert len(markers) == len(panel.csv.splitlines()) - 1


def test_series_differ_in_more_than_colour(found: tuple[Standing, ...]) -> None:
    assert len(set(SERIES.values())) == len(SERIES)
    assert re.findall(r"</svg> ([\w ]+)</li>", legend(found)) == ["white box", "from 32 bits", "unseen", "random"]


def test_the_dot_plot_is_sorted(found: tuple[Standing, ...]) -> None:
    panel = next(each for each in dot_plots(found) if each.title == "resnet20 at 4 bits")
    order = [record["defense"] for record in csv.DictReader(panel.csv.splitlines()) if record["threat"] == "white_box"]
    values = {each.defended: each.rates["white_box"].value for each in found if each.bits == "4"}
    assert order == sorted(values, key=values.__getitem__)


def test_board_rows_lead_to_the_log_rows_behind_them(found: tuple[Standing, ...]) -> None:
    rows = read_folder(DEFENSES).rows
    board, log = board_table(found), log_table(rows, [()] * len(rows), (), [()] * len(rows))
    assert len(board.rows) == 55
    assert len(log.rows) == 495
    assert {name: len(values) for name, values in board.choices.items()} == {"bits": 5, "defense": 11}
    anchors = {each.anchor: each for each in log.rows}
    qat = next(each for each in board.rows if (each.filters["defense"], each.filters["bits"]) == ("qat", "4"))
    (white_box,) = [fact for fact in qat.facts if fact[0] == "white box"]
    assert white_box[1] == "210 of 410 by patch_apgd 6x6 from qat@4, rank 5"
    assert anchors[white_box[2]].cells[0].text == "patch_apgd 6x6"
    assert anchors[white_box[2]].cells[3].value == "51.2195"
    assert all(fact[2] in anchors for each in board.rows for fact in each.facts if fact[2])
