"""One row: read once from its text, written again as the same text, and named in one place."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from qpatchbench.errors import ArtifactError
from qpatchbench.report.leaderboard.board import Leaderboard
from qpatchbench.report.leaderboard.published import read_board
from qpatchbench.report.leaderboard.row import COLUMNS, OPTIONAL, read_row, row_of
from qpatchbench.report.page.tables import whole_grid
from qpatchbench.runs.run import Run
from qpatchbench.statistics.intervals import wilson
from tests.report.made_up_runs import row as record

ROOT = Path(__file__).parents[3]


def test_what_was_written_is_read_as_the_same_rows(simulated: Path, tmp_path: Path) -> None:
    rows = Leaderboard(Run(simulated)).rows
    path = tmp_path / "leaderboard.csv"
    path.write_text(whole_grid(rows).csv())
    again = read_board(path)
    assert [row.key for row in again] == [row.key for row in rows]
    assert whole_grid(again).csv() == whole_grid(rows).csv()
    for ours, theirs in zip(rows, again, strict=True):
        known = {name: value for name, value in ours.rounded().numbers.items() if not math.isnan(value)}
        assert known == theirs.numbers
        assert not theirs.counted_intervals


@pytest.mark.parametrize("path", sorted(ROOT.glob("results/**/leaderboard.csv")), ids=lambda path: path.parent.name)
def test_committed_leaderboards_are_read_as_they_are(path: Path) -> None:
    records = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    rows = read_board(path)
    assert len(rows) == len(records) > 0
    for row, texts in zip(rows, records, strict=True):
        assert {name: row.text(name) for name in texts if name in (*COLUMNS, *OPTIONAL)} == texts
        assert not math.isnan(row.interval("clean_accuracy").low)


def test_accuracies_without_an_interval_get_wilsons_of_one_seed() -> None:
    row = read_row(record(clean_accuracy=90, robust_accuracy=45, n_images=200, seeds=3))
    assert row.interval("clean_accuracy") == pytest.approx([100 * bound for bound in wilson(180, 200)])
    assert row.interval("robust_accuracy") == pytest.approx([100 * bound for bound in wilson(90, 200)])
    assert row.counted_intervals
    told = {"clean_accuracy_low": "88.5", "clean_accuracy_high": "91.25"}
    told |= {"robust_accuracy_low": "40", "robust_accuracy_high": ""}
    stated = read_row(record(clean_accuracy=90) | told)
    assert stated.interval("clean_accuracy") == (88.5, 91.25)
    assert math.isnan(stated.interval("robust_accuracy").high)
    assert not stated.counted_intervals


@pytest.mark.parametrize(
    ("facts", "source", "text", "made_on"),
    [
        ({}, "own", "qat@8", "own"),
        ({"source_defense": "none", "seen": "unseen"}, "other training", "none qat@8 (unseen)", "resnet20 none"),
        ({"source_model": "vgg16"}, "other architecture", "vgg16 qat@8", "vgg16 qat"),
        ({"source_model": ""}, "control", "none", " qat"),
        ({"source_preprocessor": "lgs"}, "own", "qat@8 + lgs", "own"),
    ],
)
def test_a_row_is_named_in_one_place(facts: dict[str, str], source: str, text: str, made_on: str) -> None:
    told = {"source_quantization": "qat", "source_bits": "8", "preprocessor": "lgs", "transformation": "shift 2,2"}
    row = read_row(record(target_bits="4", **{**told, **facts}))
    assert (row.source, row.source_text, row.made_on, row.same_bits) == (source, text, made_on, "no")
    assert row.label == f"gap 6x6 shift 2,2 from {text} on resnet20 qat qat@4 + lgs"
    assert (row.defended, row.size, row.base) == ("qat + lgs", "6x6", "cifar10")


def test_a_cell_has_the_labels_of_its_row(simulated: Path) -> None:
    run = Run(simulated)
    by_key = {row.key: row for row in Leaderboard(run).rows}
    for cell in run.cells:
        if not cell.control:
            assert row_of(cell).label == by_key[row_of(cell).key].label


def test_failed_checks_are_those_before_the_warnings() -> None:
    assert read_row(record(checks="fail V2 V6; warn V3")).failed_checks == "fail V2 V6"
    assert read_row(record(checks="warn V3")).failed_checks == ""


@pytest.mark.parametrize(
    ("column", "text", "message"),
    [("asr", "many", "row 1: expected numbers"), ("source_bits", None, "expected a column source_bits")],
)
def test_a_damaged_leaderboard_is_named(tmp_path: Path, column: str, text: str | None, message: str) -> None:
    facts = {name: value for name, value in (record() | {column: text}).items() if value is not None}
    path = tmp_path / "leaderboard.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*facts])
        writer.writeheader()
        writer.writerow(facts)
    with pytest.raises(ArtifactError, match=message) as caught:
        read_board(path)
    assert str(path) in str(caught.value)
